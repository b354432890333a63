"""An evaluation as JSON: the shape that others script against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3core.evaluate.measures import MEASURES
from m3core.evaluate.presets import Mined
from pipelines.encode.run import Counts
from pipelines.evaluate.comparing import Comparison, difference_json, per_query
from pipelines.evaluate.evaluation import Evaluation, ScoredRun, means
from pipelines.evaluate.through import Live

_DIGITS = 4
_JUDGED_DEPTH = 10


@dataclass(frozen=True)
class Findings:
    """One evaluation and what was asked beyond it."""

    evaluation: Evaluation
    comparisons: Sequence[Comparison] = ()
    live: Live | None = None

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.evaluation.dataset.name


def as_json(findings: Sequence[Findings], mined: Mined | None, *, with_queries: bool) -> dict[str, Any]:
    """One data set flat, several as `datasets` with the `mean` of the runs that all have."""
    parts = [_part(each, with_queries=with_queries) for each in findings]
    more = {} if mined is None else {"mined": mined_json(mined)}
    if len(parts) == 1:
        return {**parts[0], **more}
    model = {name: parts[0][name] for name in ("model", "fingerprint")}
    average = {run: rounded(values) for run, values in means([each.evaluation for each in findings]).items()}
    return {**model, "datasets": parts, "mean": {"runs": average}, **more}


def mined_json(mined: Mined) -> dict[str, Any]:
    """Weights, what they are worth on held-out queries, and whether that is more than chance."""
    return {
        "weights": {"dense": mined.weights.dense, "lexical": mined.weights.lexical, "multi": mined.weights.multi},
        "held_out_ndcg@10": round(mined.held_out, _DIGITS),
        "preset_ndcg@10": round(mined.preset, _DIGITS),
        **difference_json(mined.gain),
        "beyond_noise": mined.gain.beyond_noise and mined.gain.mean > 0,
    }


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures with the digits that they deserve."""
    return {name: round(value, _DIGITS) for name, value in figures.items()}


def _part(findings: Findings, *, with_queries: bool) -> dict[str, Any]:
    evaluation = findings.evaluation
    dataset = evaluation.dataset
    part: dict[str, Any] = {
        "dataset": dataset.name,
        "model": evaluation.model,
        "fingerprint": evaluation.fingerprint,
        "queries": len(dataset.queries),
        "documents": len(dataset.documents),
        "runs": {name: _run(evaluation, name) for name in evaluation.runs},
        "languages": _languages(evaluation),
        "truncated": {"queries": _cut(evaluation.queries), "documents": _cut(evaluation.documents)},
        "qrels": {**dataset.coverage.as_json(), "judged@10": _judged(evaluation)},
        "problems": dataset.problems.as_json(),
    }
    if findings.comparisons:
        part["comparisons"] = [each.as_json() for each in findings.comparisons]
    if findings.live is not None:
        part["through"] = findings.live.as_json()
    if with_queries:
        part["per_query"] = per_query(evaluation)
    return part


def _run(evaluation: Evaluation, name: str) -> dict[str, Any]:
    bounds = zip(MEASURES, evaluation.intervals[name].tolist(), strict=True)
    return {
        **rounded(evaluation.runs[name].means),
        "interval": {measure: [round(low, _DIGITS), round(high, _DIGITS)] for measure, (low, high) in bounds},
    }


def _languages(evaluation: Evaluation) -> dict[str, Any]:
    """Per language its queries and the figures of each run; `none` where neither query nor document has one."""
    languages = sorted(set(evaluation.dataset.languages))
    if languages == [""]:
        return {}
    return {
        language or "none": {
            "queries": len(rows := evaluation.rows(language)),
            "runs": {
                name: rounded(dict(zip(MEASURES, run.values[rows].mean(axis=0).tolist(), strict=True)))
                for name, run in evaluation.runs.items()
            },
        }
        for language in languages
    }


def _cut(counts: Counts) -> dict[str, Any]:
    """How many texts were cut, of how many, and the tokens that were read of them (null where none was cut)."""
    return {"count": counts.truncated, "of": counts.texts, "limit": counts.limit}


def _judged(evaluation: Evaluation) -> dict[str, float]:
    """Share of the first ten documents of each run that somebody judged: where it is low, figures are too."""
    return {name: round(_judged_share(evaluation, run), _DIGITS) for name, run in evaluation.runs.items()}


def _judged_share(evaluation: Evaluation, run: ScoredRun) -> float:
    seen = known = 0
    for row, query in enumerate(evaluation.dataset.queries):
        first = run.rankings.row(row)[:_JUDGED_DEPTH]
        seen += len(first)
        known += sum(run.ids[place] in evaluation.dataset.judgements[query.id] for place in first)
    return known / seen if seen else 0.0
