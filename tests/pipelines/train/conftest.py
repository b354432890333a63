"""Rows, a dev set and the command for the tests of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.m3core.train.parts import made_rows
from tests.pipelines.cli.conftest import M3, Ended, here, m3

__all__ = ["here", "m3"]

Write = Callable[[str, list[Any]], Path]


@pytest.fixture
def write(here: Path) -> Write:
    """Write JSON lines; a string stands for a line as it is."""

    def lines(name: str, rows: list[Any]) -> Path:
        spelled = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (here / name).write_text("\n".join(spelled) + "\n", encoding="utf-8")
        return here / name

    return lines


@pytest.fixture
def rows(write: Write) -> Path:
    """Forty good rows with teacher's scores."""
    made = made_rows(40, scores=True)
    fields = [
        {
            "query": row.query,
            "pos": list(row.positives),
            "neg": list(row.negatives),
            "pos_scores": list(row.positive_scores),
            "neg_scores": list(row.negative_scores),
        }
        for row in made
    ]
    return write("rows.jsonl", fields)


@pytest.fixture
def dev(write: Write, here: Path) -> Path:
    """A data set of twelve documents that no row holds."""
    made = made_rows(12, seed=9)
    (here / "dev").mkdir()
    write("dev/corpus.jsonl", [{"_id": f"d{i}", "text": f"{row.positives[0]} end"} for i, row in enumerate(made)])
    write("dev/queries.jsonl", [{"_id": f"q{i}", "text": f"{row.query} now"} for i, row in enumerate(made)])
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(12))
    (here / "dev" / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return here / "dev"


@pytest.fixture
def train(m3: M3, tiny_model: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> M3:
    """`m3 train` with the tiny model, in an empty folder, with a home of its own."""
    monkeypatch.setenv("M3_HOME", str(here / "home"))

    def run(*arguments: str | Path) -> Ended:
        return m3("train", "--model", tiny_model, "--no-plot", "--precision", "float32", *arguments)

    return run
