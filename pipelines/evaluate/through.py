"""The same questions asked of a live collection: its figures, and what its stores lose against exact search."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3core.errors import UsageError
from m3core.evaluate.measures import MEASURES
from m3core.evaluate.resampling import Difference, compare, intervals
from m3core.evaluate.search import Rankings
from m3core.fusion import Weights
from m3core.types import Identity
from pipelines.evaluate.comparing import difference_json
from pipelines.evaluate.evaluation import Evaluation, ScoredRun, score_run
from pipelines.evaluate.runs import THROUGH
from pipelines.query.answer import Answer
from pipelines.query.request import SearchRequest

# As far as the measures look.
_DEPTH = 100
_OVERLAP = 10

Search = Callable[[SearchRequest], Answer]


@dataclass(frozen=True)
class Live:
    """What the collection answered. Its hits are documents: of each the best chunk.

    `exact` names the run of the same weights in exact search; `outside` counts hits that the corpus does not have,
    `refused` queries that the collection does not take, `chunked` hits whose document has more than one chunk in the
    answer: these were searched in parts, exact search read them whole and maybe cut.
    """

    collection: str
    generation: int
    exact: str
    overlap: float
    loss: dict[str, Difference]
    degraded: int
    outside: int
    refused: int
    chunked: int
    milliseconds: float

    def as_json(self) -> dict[str, Any]:
        """Losses are live minus exact: negative where the stores find less."""
        return {
            "collection": self.collection,
            "generation": self.generation,
            "exact": self.exact,
            "overlap@10": round(self.overlap, 4),
            "loss": {name: difference_json(each) for name, each in self.loss.items()},
            "degraded": self.degraded,
            "outside_corpus": self.outside,
            "refused": self.refused,
            "chunked": self.chunked,
            "median_ms": round(self.milliseconds, 1),
        }


@dataclass(frozen=True)
class Asking:
    """How the questions are put: on whose behalf, and with which weights."""

    collection: str
    identity: Identity
    preset: str | None
    weights: Weights | None
    exact: str


def ask_live(
    evaluation: Evaluation, search: Search, asking: Asking, told: Callable[[int], None]
) -> tuple[Evaluation, Live]:
    """The evaluation with one run more, and what the collection lost. `told` hears how many queries are done.

    Raises what `search` raises for anything but a query that it refuses; StoreError if a store does not answer.
    """
    if asking.exact not in evaluation.runs:
        raise UsageError(f"--through needs the run {asking.exact}", "leave --signals out")
    answers = []
    for done, query in enumerate(evaluation.dataset.queries, start=1):
        answers.append(_ask(search, query.text, asking))
        told(done)
    run, outside = _ranked(evaluation, answers)
    given = [answer for answer in answers if answer is not None]
    live = Live(
        collection=asking.collection,
        generation=given[-1].generation if given else 0,
        exact=asking.exact,
        overlap=_overlap(run, evaluation.runs[asking.exact]),
        loss=dict(zip(MEASURES, _loss(evaluation, run, asking.exact), strict=True)),
        degraded=sum(answer.degraded for answer in given),
        outside=outside,
        refused=len(answers) - len(given),
        chunked=sum(hit.further_chunks > 0 for answer in given for hit in answer.hits[:_OVERLAP]),
        milliseconds=statistics.median(answer.timings_ms["total"] for answer in given) if given else 0.0,
    )
    return evaluation.with_run(THROUGH, run, intervals(run.values, evaluation.settings.seed)), live


def _ask(search: Search, text: str, asking: Asking) -> Answer | None:
    """None for a query that is too long or has characters that the collection does not take."""
    try:
        # Quotes are text here, and documents with the same text are judged each for itself: as in exact search.
        request = SearchRequest(
            text, asking.identity, _DEPTH, preset=asking.preset, weights=asking.weights, quotes=False, once=False
        )
    except UsageError:
        return None
    return search(request)


def _ranked(evaluation: Evaluation, answers: Sequence[Answer | None]) -> tuple[ScoredRun, int]:
    """The documents in the order of the answers: scores are 1 / rank, so that no tie is broken again."""
    ids = list(evaluation.dataset.document_ids)
    place = {document: number for number, document in enumerate(ids)}
    places = np.full((len(answers), _DEPTH), -1, dtype=np.int64)
    outside = 0
    for row, answer in enumerate(answers):
        for rank, hit in enumerate(answer.hits[:_DEPTH] if answer is not None else ()):
            if hit.doc_id not in place:
                place[hit.doc_id] = len(ids)
                ids.append(hit.doc_id)
            places[row, rank] = place[hit.doc_id]
            outside += place[hit.doc_id] >= len(evaluation.dataset.documents)
    scores = np.where(places >= 0, 1 / np.arange(1, _DEPTH + 1), 0).astype(np.float32)
    return score_run(evaluation.dataset, Rankings(places, scores), ids), outside


def _overlap(run: ScoredRun, exact: ScoredRun) -> float:
    shares = []
    for row in range(len(exact.values)):
        wanted = set(exact.rankings.row(row)[:_OVERLAP])
        shares.append(len(wanted & set(run.rankings.row(row)[:_OVERLAP])) / len(wanted) if wanted else 1.0)
    return float(np.mean(shares))


def _loss(evaluation: Evaluation, run: ScoredRun, exact: str) -> list[Difference]:
    """Against as many exact hits as the collection was asked for: MAP counts further ones too."""
    dataset, whole = evaluation.dataset, evaluation.runs[exact].rankings
    same = Rankings(whole.places[:, :_DEPTH], whole.scores[:, :_DEPTH])
    return compare(score_run(dataset, same, dataset.document_ids).values, run.values, evaluation.settings.seed)
