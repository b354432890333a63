"""TREC run and qrels files, for trec_eval and its kin: they give the same figures as `m3 eval`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from m3core.errors import UsageError
from pipelines.evaluate.dataset import Dataset
from pipelines.evaluate.evaluation import Evaluation, ScoredRun

QRELS = "qrels.txt"


def trec_files(evaluation: Evaluation) -> Iterator[tuple[str, Iterator[str]]]:
    """(file name, lines) of the judgements of the evaluated queries and of each run.

    Raises UsageError as `check_ids` does.
    """
    check_ids(evaluation.dataset)
    yield QRELS, _qrels(evaluation)
    for name, run in evaluation.runs.items():
        # A preset may be called anything; a file and a column may not.
        tag = re.sub(r"[^\w.-]", "-", name)
        yield f"{tag}.run", _lines(evaluation, tag, run)


def check_ids(dataset: Dataset) -> None:
    """Raises UsageError for an id with white space, which separates the columns there."""
    for identity in (*dataset.document_ids, *(query.id for query in dataset.queries)):
        if len(identity.split()) != 1:
            raise UsageError(f"--trec-dir: the id {identity[:60]!r} has white space", "leave --trec-dir out")


def folder_of(base: Path, evaluation: Evaluation) -> Path:
    """Each data set has a folder of its own."""
    return base / evaluation.dataset.name


def _qrels(evaluation: Evaluation) -> Iterator[str]:
    for query in evaluation.dataset.queries:
        for document, score in evaluation.dataset.judgements[query.id].items():
            yield f"{query.id} 0 {document} {score}\n"


def _lines(evaluation: Evaluation, tag: str, run: ScoredRun) -> Iterator[str]:
    for row, query in enumerate(evaluation.dataset.queries):
        for rank, (document, score) in enumerate(run.found(row).items(), start=1):
            # Nine digits tell any two float32 apart: ties stay ties and nothing else becomes one.
            yield f"{query.id} Q0 {document} {rank} {score:.9g} {tag}\n"
