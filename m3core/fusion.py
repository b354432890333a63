"""From three raw scores to one: the weighted sum, and reciprocal rank fusion where scores cannot be compared."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from m3core.errors import UsageError
from m3core.types import Signal

RRF_K = 60
Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight of each signal in the weighted sum; not negative, at least one positive."""

    dense: float
    lexical: float
    multi: float

    def __post_init__(self) -> None:
        values = (self.dense, self.lexical, self.multi)
        if not all(0 <= value < float("inf") for value in values) or not any(values):
            raise UsageError(
                f"weights {self.dense},{self.lexical},{self.multi}: each must be 0 or more and one above 0",
                "give three numbers for dense, lexical and multi, for example 0.4,0.2,0.4",
            )

    def of(self, signal: Signal) -> float:
        """The weight of one signal."""
        return {Signal.DENSE: self.dense, Signal.LEXICAL: self.lexical, Signal.MULTI: self.multi}[signal]

    def normalised(self, signals: Collection[Signal] = tuple(Signal)) -> dict[Signal, float]:
        """Weights of the given signals scaled to sum 1: what is dropped gives its share to the rest.

        Raises UsageError if every given signal has weight 0.
        """
        kept = {signal: self.of(signal) for signal in Signal if signal in signals}
        total = sum(kept.values())
        if total <= 0:
            raise UsageError(
                f"the signals {', '.join(sorted(kept)) or 'none'} all have weight 0", "choose another preset or weights"
            )
        return {signal: weight / total for signal, weight in kept.items()}


# Model card 0.4/0.2/0.4; long documents (MLDR) 0.15/0.5/0.35; MIRACL and MKQA 1/0.3/1 - cross-lingual pairs share few
# tokens, so lexical weights count for little there (paper, section 4).
BUILT_IN_PRESETS: Mapping[str, Weights] = {
    "balanced": Weights(0.4, 0.2, 0.4),
    "long-documents": Weights(0.15, 0.5, 0.35),
    "cross-lingual": Weights(1.0, 0.05, 1.0),
    "dense-only": Weights(1.0, 0.0, 0.0),
}


def weighted_sum(raw: Mapping[Signal, float], weights: Mapping[Signal, float]) -> float:
    """sum over signals of w_x * s_x / sum of w_x (FlagEmbedding's combination). A signal absent from `raw` counts 0."""
    return sum(weight * raw.get(signal, 0.0) for signal, weight in weights.items()) / sum(weights.values())


def weighted_sums(
    raw: Mapping[Signal, Mapping[Item, float]], weights: Mapping[Signal, float], items: Iterable[Item]
) -> dict[Item, float]:
    """`weighted_sum` of each of `items`, signal by signal; what `raw` has of others is left out."""
    sums = dict.fromkeys(items, 0.0)
    for signal, weight in weights.items():
        for item, score in raw.get(signal, {}).items():
            if item in sums:
                sums[item] += weight * score
    total = sum(weights.values())
    return {item: found / total for item, found in sums.items()}


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Item]], k: int = RRF_K) -> dict[Item, float]:
    """sum over rankings of 1 / (k + rank), ranks from 1 (Cormack, Clarke, Buettcher, SIGIR 2009)."""
    fused: dict[Item, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            fused[item] = fused.get(item, 0.0) + 1.0 / (k + rank)
    return fused
