"""Small data sets in BEIR's layout, written for a test."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CORPUS: tuple[dict[str, Any], ...] = (
    {"_id": "d1", "title": "Cryostat", "text": "The cryostat is booked at the front desk.", "language": "en"},
    {"_id": "d2", "title": "", "text": "Travel by night train is refunded within thirty days.", "language": "en"},
    {"_id": "d3", "title": "Schlüssel", "text": "Wer den Schlüssel verliert, meldet es der Leitung.", "language": "de"},
    {"_id": "d4", "title": None, "text": "The key is handed over at nine.", "language": "en"},
    {"_id": "d5", "text": "低温実験室の鍵は受付にあります。", "metadata": {"language": "ja"}},
)
QUERIES: tuple[dict[str, Any], ...] = (
    {"_id": "q1", "text": "where is the cryostat booked", "language": "en"},
    {"_id": "q2", "text": "night train refund", "language": "en"},
    {"_id": "q3", "text": "Schlüssel verloren"},
    {"_id": "q4", "text": "key at nine", "language": "en"},
)
QRELS: tuple[tuple[str, str, object], ...] = (
    ("q1", "d1", 2),
    ("q1", "d4", 1),
    ("q2", "d2", 1),
    ("q2", "d1", 0),
    ("q3", "d3", 1),
    ("q4", "d4", 1),
)


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: Sequence[tuple[object, ...]], *, header: bool = True) -> str:
    """Tab-separated judgements."""
    first = "query-id\tcorpus-id\tscore\n" if header else ""
    return first + "".join("\t".join(map(str, row)) + "\n" for row in rows)


def write_folder(
    folder: Path,
    corpus: Sequence[Mapping[str, Any]] = CORPUS,
    queries: Sequence[Mapping[str, Any]] = QUERIES,
    qrels: Sequence[tuple[object, ...]] = QRELS,
) -> Path:
    """The three plain files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text(lines(corpus), encoding="utf-8")
    (folder / "queries.jsonl").write_text(lines(queries), encoding="utf-8")
    (folder / "qrels.tsv").write_text(table(qrels), encoding="utf-8")
    return folder


def zipped(text: str) -> bytes:
    """The same, gzipped."""
    return gzip.compress(text.encode())
