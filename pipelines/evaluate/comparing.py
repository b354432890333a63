"""Is one run better than another beyond noise? Within one evaluation, or against an earlier one that was saved."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3core.errors import UsageError
from m3core.evaluate.measures import MAIN_MEASURE, MEASURES
from m3core.evaluate.resampling import Difference, compare
from m3core.nearest import did_you_mean
from m3core.types import Float64Array
from pipelines.evaluate.dataset import Dataset
from pipelines.evaluate.evaluation import Evaluation

MAX_SAVED_BYTES = 1 << 30
_SAVE_IT = "make it with: m3 eval ... --json --per-query > FILE"


@dataclass(frozen=True)
class Comparison:
    """One run against `reference`, over the `queries` that both have; one difference per measure."""

    run: str
    reference: str
    queries: int
    differences: Mapping[str, Difference]

    @property
    def main(self) -> Difference:
        """The difference in nDCG@10."""
        return self.differences[MAIN_MEASURE]

    def as_json(self) -> dict[str, Any]:
        """Differences are run minus reference."""
        return {
            "run": self.run,
            "reference": self.reference,
            "queries": self.queries,
            **{name: difference_json(each) for name, each in self.differences.items()},
        }


def difference_json(difference: Difference) -> dict[str, Any]:
    """The figures of a difference."""
    return {
        "difference": round(difference.mean, 4),
        "interval": [round(difference.low, 4), round(difference.high, 4)],
        "p": round(difference.p, 4),
    }


@dataclass(frozen=True)
class Saved:
    """Figures per query of an earlier evaluation of one data set: `values[run]` is `[Q, measures]`."""

    label: str
    digest: str
    ids: Sequence[str]
    values: Mapping[str, Float64Array]


def per_query(evaluation: Evaluation) -> dict[str, Any]:
    """What `--per-query` adds to the JSON document and `Saved` is read from: exact, so that equal runs stay equal."""
    return {
        "ids": [query.id for query in evaluation.dataset.queries],
        "runs": {
            name: {measure: run.values[:, column].tolist() for column, measure in enumerate(MEASURES)}
            for name, run in evaluation.runs.items()
        },
    }


def check_run(reference: str, runs: Collection[str]) -> None:
    """Raises UsageError if there is no such run."""
    if reference not in runs:
        raise UsageError(f"--compare {reference[:60]!r}: neither a run nor a file", did_you_mean(reference, runs))


def compare_within(evaluation: Evaluation, reference: str) -> list[Comparison]:
    """Every other run against the run `reference`. Raises UsageError if there is no such run."""
    check_run(reference, evaluation.runs)
    first = evaluation.runs[reference].values
    return [
        _compared(name, reference, first, run.values, evaluation.settings.seed)
        for name, run in evaluation.runs.items()
        if name != reference
    ]


def check_saved(dataset: Dataset, saved: Saved) -> None:
    """Raises UsageError if the judgements or the corpus are not the same, or no query is shared."""
    if saved.digest != dataset.coverage.digest:
        raise UsageError(
            f"--compare {saved.label}: its figures of {dataset.name} are of other judgements or documents "
            f"({saved.digest}, here {dataset.coverage.digest})",
            "evaluate both models on the same data",
        )
    if not set(saved.ids) & {query.id for query in dataset.queries}:
        raise UsageError(f"--compare {saved.label}: no query is in both evaluations", "take the same --max-queries")


def compare_saved(evaluation: Evaluation, saved: Saved) -> list[Comparison]:
    """Every run against that of the same name in an earlier evaluation, over the queries that both have.

    Raises UsageError as `check_saved` does.
    """
    check_saved(evaluation.dataset, saved)
    place = {query: row for row, query in enumerate(saved.ids)}
    here = [row for row, query in enumerate(evaluation.dataset.queries) if query.id in place]
    there = [place[evaluation.dataset.queries[row].id] for row in here]
    return [
        _compared(name, f"{saved.label}:{name}", saved.values[name][there], run.values[here], evaluation.settings.seed)
        for name, run in evaluation.runs.items()
        if name in saved.values
    ]


def read_saved(path: Path) -> dict[str, Saved]:
    """The figures per query of a saved JSON document, by data set.

    Raises UsageError if it is no such document or was made without --per-query.
    """
    if path.stat().st_size > MAX_SAVED_BYTES:
        raise UsageError(f"--compare {path}: more than {MAX_SAVED_BYTES:,} bytes", _SAVE_IT)
    try:
        document = json.loads(path.read_bytes())
        parts = document.get("datasets", [document])
        return {part["dataset"]: _saved(path, part) for part in parts}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"--compare {path}: no JSON document of m3 eval with figures per query", _SAVE_IT) from None


def _saved(path: Path, part: Mapping[str, Any]) -> Saved:
    ids = part["per_query"]["ids"]
    values = {
        str(name): np.asarray([figures[measure] for measure in MEASURES], dtype=np.float64).T
        for name, figures in part["per_query"]["runs"].items()
    }
    if any(each.shape != (len(ids), len(MEASURES)) or not np.isfinite(each).all() for each in values.values()):
        raise ValueError
    return Saved(path.stem, str(part["qrels"]["digest"]), [str(each) for each in ids], values)


def _compared(run: str, reference: str, first: Float64Array, second: Float64Array, seed: int) -> Comparison:
    differences = dict(zip(MEASURES, compare(first, second, seed), strict=True))
    return Comparison(run, reference, len(first), differences)
