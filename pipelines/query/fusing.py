"""Raw scores of the candidates -> one order. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from m3core.fusion import RRF_K, weighted_sums
from m3core.types import Signal
from pipelines.query.answer import Origin, SignalScore
from pipelines.query.request import Fusion


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the stores said so far: per signal, id -> raw score, apart for retrieved and completed ones."""

    retrieved: Mapping[Signal, Mapping[str, float]]
    completed: Mapping[Signal, Mapping[str, float]] = field(default_factory=dict)

    @property
    def ids(self) -> frozenset[str]:
        """Every id that some signal retrieved."""
        return frozenset().union(*self.retrieved.values())

    def missing(self, signal: Signal) -> list[str]:
        """Ids without a score of `signal`, ascending: what is asked for completion."""
        known = self.raw(signal)
        return sorted(each for each in self.ids if each not in known)

    def raw(self, signal: Signal) -> dict[str, float]:
        """All raw scores of one signal."""
        return {**self.completed.get(signal, {}), **self.retrieved.get(signal, {})}

    def with_completed(self, scores: Mapping[Signal, Mapping[str, float]]) -> Candidates:
        """These candidates and more scores."""
        merged = {signal: {**self.completed.get(signal, {}), **found} for signal, found in scores.items()}
        return Candidates(self.retrieved, {**self.completed, **merged})

    def without(self, dropped: Collection[Signal]) -> Candidates:
        """As if the dropped signals had not been asked: their scores go, and the candidates that only they brought."""
        retrieved = {signal: scores for signal, scores in self.retrieved.items() if signal not in dropped}
        kept = frozenset().union(*retrieved.values())
        completed = {
            signal: {each: score for each, score in scores.items() if each in kept}
            for signal, scores in self.completed.items()
            if signal not in dropped
        }
        return Candidates(retrieved, completed)


def fused_order(
    candidates: Candidates, weights: Mapping[Signal, float], fusion: Fusion = Fusion.WEIGHTED_SUM
) -> list[tuple[str, float]]:
    """(id, score) of every candidate, best first, ties by id. A missing score counts 0. `weights` sum to 1."""
    raw = {signal: candidates.raw(signal) for signal in weights}
    if fusion is Fusion.RECIPROCAL_RANK:
        raw = {signal: _reciprocal_ranks(signal, scores) for signal, scores in raw.items()}
    return sorted(weighted_sums(raw, weights, candidates.ids).items(), key=lambda pair: (-pair[1], pair[0]))


def signal_scores(
    candidates: Candidates,
    weights: Mapping[Signal, float],
    ids: Iterable[str],
    fusion: Fusion = Fusion.WEIGHTED_SUM,
) -> dict[str, dict[Signal, SignalScore]]:
    """How each of `ids` comes by its score: the sum of its contributions. `weights` sum to 1.

    Ranks count among all candidates that have a score of the signal.
    """
    raw = {signal: candidates.raw(signal) for signal in weights}
    ranks = {signal: _ranks(scores) for signal, scores in raw.items()}
    found: dict[str, dict[Signal, SignalScore]] = {}
    for each in ids:
        found[each] = {
            signal: SignalScore(
                raw=(score := raw[signal].get(each)),
                rank=(rank := ranks[signal].get(each)),
                weight=weight,
                contribution=contribution(fusion, signal, weight, score, rank),
                origin=_origin(candidates, signal, each),
            )
            for signal, weight in weights.items()
        }
    return found


def contribution(fusion: Fusion, signal: Signal, weight: float, raw: float | None, rank: int | None) -> float:
    """What one signal adds to a score, for weights that sum to 1.

    weighted-sum      w * s (FlagEmbedding's combination)
    reciprocal-rank   w / (k + rank), k = 60 (Cormack, Clarke, Buettcher, SIGIR 2009, with weights)
    """
    if raw is None or rank is None:
        return 0.0
    return weight * (raw if fusion is Fusion.WEIGHTED_SUM else _reciprocal_rank(signal, raw, rank))


def _reciprocal_ranks(signal: Signal, scores: Mapping[str, float]) -> dict[str, float]:
    return {each: _reciprocal_rank(signal, scores[each], rank) for each, rank in _ranks(scores).items()}


def _reciprocal_rank(signal: Signal, raw: float, rank: int) -> float:
    # A text that shares no token with the query was completed, not found: its rank among its like is chance.
    return 0.0 if signal is Signal.LEXICAL and raw <= 0 else 1.0 / (RRF_K + rank)


def _ranks(scores: Mapping[str, float]) -> dict[str, int]:
    ordered = sorted(scores, key=lambda each: (-scores[each], each))
    return {each: rank for rank, each in enumerate(ordered, start=1)}


def _origin(candidates: Candidates, signal: Signal, each: str) -> Origin:
    if each in candidates.retrieved.get(signal, {}):
        return Origin.RETRIEVED
    return Origin.COMPLETED if each in candidates.completed.get(signal, {}) else Origin.MISSING
