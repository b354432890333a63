"""Rows of a data set's files, JSON lines, tab-separated or Parquet, each with its place; broken ones are reported.

Every size is bounded: a row by `MAX_TEXT_BYTES`, a file, unpacked, by `MAX_FILE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from m3core.errors import DocumentError, UsageError
from pipelines.evaluate.problems import Problem, Problems
from pipelines.ingest.documents import DocumentRules
from pipelines.ingest.sources.files import LocalTree
from pipelines.ingest.sources.jsonl import JsonLinesSource
from pipelines.ingest.sources.parquet import ParquetSource
from pipelines.ingest.sources.records import RecordSource
from pipelines.ingest.values import kind_of, parse_json

MAX_TEXT_BYTES = 10 << 20
MAX_FILE_BYTES = 4 << 30
TABLE_SUFFIXES = (".tsv", ".tsv.gz")
RECORD_SUFFIXES = JsonLinesSource.extensions + ParquetSource.extensions
# The readers' own limit of a whole file is for sources; here `MAX_FILE_BYTES` counts.
_NO_LIMIT = 1 << 60


def records(path: Path, columns: tuple[str, str], problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of each row of a `.jsonl` or `.parquet` file; a Parquet file must have both `columns`.

    Raises UsageError if the file is damaged, too large, or lacks a column.
    """
    source = _source(path, columns)
    yield from _read(path, source, _object, problems)


def lines(path: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    """(place, line) of a text file, plain or gzip. Raises UsageError as `records`."""
    source = JsonLinesSource("eval", LocalTree(path), _rules(("_id", "text")), _NO_LIMIT)
    yield from _read(path, source, _line, problems)


def _source(path: Path, columns: tuple[str, str]) -> RecordSource:
    kind = ParquetSource if path.name.lower().endswith(ParquetSource.extensions) else JsonLinesSource
    return kind("eval", LocalTree(path), _rules(columns), _NO_LIMIT)


def _rules(columns: tuple[str, str]) -> DocumentRules:
    return DocumentRules(
        "eval",
        id_field=columns[0],
        text_field=columns[1],
        max_document_bytes=MAX_TEXT_BYTES,
        fields={"score": "integer"},
    )


def _read(
    path: Path, source: RecordSource, parse: Callable[[bytes], Any], problems: Problems
) -> Iterator[tuple[str, Any]]:
    file = path.resolve()  # a link may name it: whoever typed the path chose it
    total = 0
    try:
        for number, payload, size in source.records(file.name):
            total += size
            if total > MAX_FILE_BYTES:
                raise UsageError(f"{path} has more than {MAX_FILE_BYTES:,} bytes", "evaluate a part of it")
            place = f"{path.name} {source.unit} {number}"
            try:
                if payload is None:
                    raise DocumentError(f"{size:,} bytes; a text has at most {MAX_TEXT_BYTES:,}")
                if payload.strip():
                    yield place, parse(payload)
            except DocumentError as error:
                problems.add(Problem.BROKEN_ROW, f"{place} ({error.message})")
    except DocumentError as error:
        needed = f"{source.rules.id_field} and {source.rules.text_field}"
        raise UsageError(f"{path}: {error.message}", f"fetch or write it again, with {needed}") from None


def _object(payload: bytes) -> dict[str, Any]:
    record = parse_json(payload, "it")
    if not isinstance(record, dict):
        raise DocumentError(f"it is {kind_of(record)}; an object is needed")
    return record


def _line(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8 at byte {error.start}") from None
