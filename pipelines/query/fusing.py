"""Raw scores of the candidates -> one order. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from m3core.fusion import weighted_sum
from m3core.types import Signal
from pipelines.query.answer import Origin, SignalScore


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


def fused_order(candidates: Candidates, weights: Mapping[Signal, float]) -> list[tuple[str, float]]:
    """(id, weighted sum of raw scores) of every candidate, best first, ties by id. A missing score counts 0."""
    raw = {signal: candidates.raw(signal) for signal in weights}
    scored = [
        (each, weighted_sum({signal: scores[each] for signal, scores in raw.items() if each in scores}, weights))
        for each in candidates.ids
    ]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))


def signal_scores(
    candidates: Candidates, weights: Mapping[Signal, float], ids: Iterable[str]
) -> dict[str, dict[Signal, SignalScore]]:
    """How each of `ids` came by its score. Ranks count among all candidates that have a score of the signal."""
    ranks = {signal: _ranks(candidates.raw(signal)) for signal in weights}
    return {
        each: {
            signal: _signal_score(candidates, signal, weight, each, ranks[signal]) for signal, weight in weights.items()
        }
        for each in ids
    }


def _ranks(scores: Mapping[str, float]) -> dict[str, int]:
    ordered = sorted(scores, key=lambda each: (-scores[each], each))
    return {each: rank for rank, each in enumerate(ordered, start=1)}


def _signal_score(
    candidates: Candidates, signal: Signal, weight: float, each: str, ranks: Mapping[str, int]
) -> SignalScore:
    retrieved = candidates.retrieved.get(signal, {})
    raw = retrieved.get(each, candidates.completed.get(signal, {}).get(each))
    if raw is None:
        return SignalScore(None, None, weight, 0.0, Origin.MISSING)
    origin = Origin.RETRIEVED if each in retrieved else Origin.COMPLETED
    return SignalScore(raw, ranks[each], weight, weight * raw, origin)
