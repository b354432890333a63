"""Request -> QueryPlan, a pure function: the same request on the same generation gives the same plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectors.filters.canonical import format_filter
from connectors.filters.check import check_filter
from connectors.filters.grammar import parse_filter
from connectors.filters.identity import with_identity
from connectors.filters.tree import Filter
from connectors.protocol import FieldType
from m3core.config.model import SearchSection
from m3core.errors import UsageError
from m3core.fusion import BUILT_IN_PRESETS, Weights
from m3core.nearest import did_you_mean
from m3core.types import Signal
from pipelines.query.request import SearchRequest
from pipelines.state.collection import Generation

# Signals whose index gives candidates; multi-vectors re-score what these bring.
_RETRIEVING = (Signal.DENSE, Signal.LEXICAL)
# By when each stage must be done, as parts of the whole deadline: what a late store took from one stage is not taken
# from the texts, without which there is no answer.
_CANDIDATES_BY, _SCORES_BY = 0.5, 0.85


@dataclass(frozen=True, slots=True)
class Leg:
    """One signal: the store that keeps it, its share of the score, and how many candidates it brings.

    `candidates` 0: it only scores what the others brought. `weight` 0: it only brings candidates.
    """

    signal: Signal
    store: str
    weight: float
    candidates: int

    def as_json(self) -> dict[str, Any]:
        """The four values under their own names."""
        return {
            "signal": self.signal.value,
            "store": self.store,
            "weight": self.weight,
            "candidates": self.candidates,
        }


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds after the stores are first asked by which each stage must be done; what is late is dropped."""

    candidates: float
    scores: float
    texts: float

    @classmethod
    def split(cls, timeout: float) -> Deadlines:
        """Share one absolute deadline between the stages."""
        return cls(_CANDIDATES_BY * timeout, _SCORES_BY * timeout, timeout)


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What is asked of which store. `where` is the caller's filter `asked` with the identity added last."""

    generation: int
    legs: tuple[Leg, ...]
    text_store: str
    preset: str | None
    weights: Weights
    asked: Filter
    where: Filter
    limit: int
    rerank_cap: int
    deadlines: Deadlines
    explain: bool

    @property
    def weighted(self) -> tuple[Signal, ...]:
        """Signals that are part of the score."""
        return tuple(leg.signal for leg in self.legs if leg.weight > 0)

    def as_json(self) -> dict[str, Any]:
        """Everything that decides the answer, the filter as text."""
        return {
            "generation": self.generation,
            "fusion": "weighted-sum",
            "preset": self.preset,
            "signals": [leg.as_json() for leg in self.legs],
            "text_store": self.text_store,
            "filter": format_filter(self.where),
            "limit": self.limit,
            "rerank_cap": self.rerank_cap,
            "deadline_s": {
                "candidates": self.deadlines.candidates,
                "scores": self.deadlines.scores,
                "texts": self.deadlines.texts,
            },
        }


def make_plan(
    request: SearchRequest, generation: Generation, presets: Mapping[str, Weights], search: SearchSection
) -> QueryPlan:
    """Decide what to ask. `presets` are the model's own; they win over the built-in ones of the same name.

    Raises UsageError (unknown preset, a signal that no store keeps, only weights of 0) and FilterError.
    """
    preset = None if request.weights is not None else request.preset or search.preset
    weights = request.weights if request.weights is not None else _preset(preset, presets)
    stores = {Signal(signal): binding.name for binding in generation.stores for signal in binding.signals}
    asked = _filter(request, generation)
    return QueryPlan(
        generation=generation.number,
        legs=_legs(_shares(request, weights, stores), stores, search.candidates),
        text_store=next(binding.name for binding in generation.stores if binding.text),
        preset=preset,
        weights=weights,
        asked=asked,
        where=with_identity(asked, request.identity),
        limit=request.limit if request.limit is not None else search.limit,
        rerank_cap=search.rerank_cap,
        deadlines=Deadlines.split(request.timeout if request.timeout is not None else search.timeout),
        explain=request.explain,
    )


def _preset(name: str | None, presets: Mapping[str, Weights]) -> Weights:
    known = {**BUILT_IN_PRESETS, **presets}
    if name not in known:
        raise UsageError(f"preset {str(name)[:60]!r}: no such preset", did_you_mean(str(name)[:60], known))
    return known[name]


def _shares(request: SearchRequest, weights: Weights, stores: Mapping[Signal, str]) -> dict[Signal, float]:
    """Normalised weights of the signals that count; those of weight 0 are not asked."""
    wanted = tuple(stores) if request.signals is None else request.signals
    for signal in wanted:
        if signal not in stores:
            kept = ", ".join(signal for signal in Signal if signal in stores)
            raise UsageError(f"signal {signal}: no store keeps it", f"this collection has {kept}")
    shares = weights.normalised(wanted)
    return {signal: share for signal, share in shares.items() if share > 0}


def _legs(shares: Mapping[Signal, float], stores: Mapping[Signal, str], candidates: int) -> tuple[Leg, ...]:
    sources = [signal for signal in _RETRIEVING if signal in shares]
    if not sources:
        # Only multi-vectors count: re-rank what dense brings, as in the paper. A scan of all is the last resort.
        sources = [next((signal for signal in _RETRIEVING if signal in stores), Signal.MULTI)]
    return tuple(
        Leg(signal, stores[signal], shares.get(signal, 0.0), candidates if signal in sources else 0)
        for signal in Signal
        if signal in shares or signal in sources
    )


def _filter(request: SearchRequest, generation: Generation) -> Filter:
    fields = {name: FieldType(kind) for name, kind in generation.fields.items()}
    if isinstance(request.filter, str):
        return parse_filter(request.filter, fields)
    check_filter(request.filter, fields)
    return request.filter
