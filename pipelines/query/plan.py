"""Request -> QueryPlan, a pure function: the same request on the same generation gives the same plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from pipelines.query.phrases import Phrased, split_phrases
from pipelines.query.request import Fusion, SearchRequest
from pipelines.state.collection import Generation

# Signals whose index gives candidates; multi-vectors re-score what these bring.
_RETRIEVING = (Signal.DENSE, Signal.LEXICAL)
# By when each stage must be done, as parts of the whole deadline: what a late store took from one stage is not taken
# from the texts, without which there is no answer.
_QUERY_BY, _CANDIDATES_BY, _SCORES_BY = 0.35, 0.6, 0.85
# Where grouping leaves too few documents, the depth of the candidates is doubled up to so many times the configured
# one, and never beyond what one request to a store may bring.
_DEEPEST, _MOST_CANDIDATES = 8, 10_000


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
    """Seconds after the beginning by which each stage must be done; what is late is dropped.

    `query`: its encoding. What happens once, opening stores and loading the model, and an explanation, for which the
    texts of the page are encoded again, are not part of it.
    """

    query: float
    candidates: float
    scores: float
    texts: float

    @classmethod
    def split(cls, timeout: float) -> Deadlines:
        """Share one absolute deadline between the stages."""
        return cls(_QUERY_BY * timeout, _CANDIDATES_BY * timeout, _SCORES_BY * timeout, timeout)

    def as_json(self) -> dict[str, float]:
        """The four values under their own names."""
        return {"query": self.query, "candidates": self.candidates, "scores": self.scores, "texts": self.texts}


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What is asked of which store. `where` is the caller's filter `asked` with the identity added last.

    `text` is what is encoded: the query without the quotes around `phrases`. Phrases are looked for in the texts of the
    candidates, as the text store has them: no store is asked for phrases. `max_candidates` is how deep the legs may
    go where grouping leaves too few documents.
    """

    text: str
    phrases: tuple[str, ...]
    generation: int
    legs: tuple[Leg, ...]
    text_store: str
    preset: str | None
    weights: Weights
    asked: Filter
    where: Filter
    limit: int
    offset: int
    chunks: int
    min_score: float | None
    once: bool
    paged: bool
    fusion: Fusion
    require: tuple[Signal, ...]
    max_candidates: int
    rerank_cap: int
    deadlines: Deadlines
    explain: bool

    @property
    def wanted(self) -> int:
        """Documents to find: those of the page and those before it."""
        return self.offset + self.limit

    def deeper(self) -> QueryPlan | None:
        """The same plan with twice the candidates; None at the cap."""
        depth = max(leg.candidates for leg in self.legs)
        if depth >= self.max_candidates:
            return None
        doubled = min(2 * depth, self.max_candidates)
        return replace(
            self, legs=tuple(replace(leg, candidates=doubled) if leg.candidates else leg for leg in self.legs)
        )

    @property
    def weighted(self) -> tuple[Signal, ...]:
        """Signals that are part of the score."""
        return tuple(leg.signal for leg in self.legs if leg.weight > 0)

    def as_json(self) -> dict[str, Any]:
        """Everything that decides the answer, the filter as text."""
        return {
            "generation": self.generation,
            "fusion": self.fusion.value,
            "preset": self.preset,
            "signals": [leg.as_json() for leg in self.legs],
            "require": [signal.value for signal in self.require],
            "text_store": self.text_store,
            "filter": format_filter(self.where),
            "phrases": list(self.phrases),
            # No store is asked for them: a text beyond the candidates is not found by its phrase alone.
            "phrases_checked_in": "candidates",
            "min_score": self.min_score,
            "limit": self.limit,
            "offset": self.offset,
            "chunks": self.chunks,
            "once": self.once,
            "paged": self.paged,
            "max_candidates": self.max_candidates,
            "rerank_cap": self.rerank_cap,
            "deadline_s": self.deadlines.as_json(),
        }


def make_plan(
    request: SearchRequest, generation: Generation, presets: Mapping[str, Weights], search: SearchSection
) -> QueryPlan:
    """Decide what to ask. `presets` are the model's own; they win over the built-in ones of the same name.

    Raises UsageError (unknown preset, a signal that no store keeps or that is required and not asked, only weights
    of 0) and FilterError.
    """
    preset = None if request.weights is not None else request.preset or search.preset
    weights = request.weights if request.weights is not None else _preset(preset, presets)
    stores = {Signal(signal): binding.name for binding in generation.stores for signal in binding.signals}
    asked = _filter(request, generation)
    phrased = split_phrases(request.query) if request.quotes else Phrased(request.query, ())
    shares = _shares(request, weights, stores)
    return QueryPlan(
        text=phrased.text,
        phrases=phrased.phrases,
        generation=generation.number,
        legs=_legs(shares, stores, search.candidates),
        text_store=next(binding.name for binding in generation.stores if binding.text),
        preset=preset,
        weights=weights,
        asked=asked,
        where=with_identity(asked, request.identity),
        limit=request.limit if request.limit is not None else search.limit,
        offset=request.offset,
        chunks=request.chunks,
        min_score=request.min_score,
        once=request.once,
        paged=request.paged or request.cursor is not None,
        fusion=request.fusion,
        require=_required(request, shares),
        max_candidates=max(search.candidates, min(_MOST_CANDIDATES, _DEEPEST * search.candidates)),
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


def _required(request: SearchRequest, shares: Mapping[Signal, float]) -> tuple[Signal, ...]:
    for signal in request.require:
        if signal not in shares:
            asked = ", ".join(shares)
            raise UsageError(f"require {signal}: it is no part of this search", f"its signals are {asked}")
    return tuple(signal for signal in Signal if signal in request.require)


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
