"""The router: one request in, one answer out, over however many stores the live generation has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from m3core.config.model import Config, SearchSection
from m3core.errors import ModelError
from m3core.types import Identity, QueryVectors, Signal, encoded_text
from pipelines.query.answer import Answer, Coverage, Emptiness, Hit, SignalScore
from pipelines.query.asking import Deadline
from pipelines.query.empty import explain_empty
from pipelines.query.encoding import EncoderFacts, ModelEncoder, QueryEncoder
from pipelines.query.explain import MAX_EXPLAINED
from pipelines.query.fusing import fused_order, signal_scores
from pipelines.query.gathering import Gathered, Gatherer
from pipelines.query.live import LiveGeneration, LiveStores, Pinned
from pipelines.query.page import Place, fill_page
from pipelines.query.plan import QueryPlan, make_plan
from pipelines.query.request import SearchRequest
from pipelines.state.collection import Generation


@dataclass(frozen=True)
class Router:
    """Searches one collection. Long-lived: a new snapshot or generation is picked up by the next request.

    Not tied to a command or a service. `stores` and `encoder` are the seams that tests and a service replace.
    """

    stores: LiveStores
    encoder: QueryEncoder
    search_defaults: SearchSection

    @classmethod
    def open(cls, config: Config, base: Path) -> Router:
        """A router over a configuration; `base` is the folder that its relative paths start from.

        Nothing is read yet: the first request (or `warm`) opens stores and model.
        """
        return cls(LiveGeneration(config, base), ModelEncoder(config.model, base), config.search)

    async def search(self, request: SearchRequest) -> Answer:
        """Answer one request.

        Raises UsageError and FilterError (the request), StateError and ModelError (nothing to search, vectors that do
        not meet) and StoreError (the text store did not answer, or no signal did).
        """
        clock = _Clock()
        async with self.stores.pin() as pinned:
            encoder = await self.encoder.facts()
            _check_encoder(pinned.generation, encoder)
            plan = make_plan(request, pinned.generation, encoder.presets, self.search_defaults)
            clock.lap("open")
            vectors = await self.encoder.encode_query(request.query)
            clock.lap("encode")
            return await self._answer(request, plan, vectors, pinned, clock)

    async def warm(self) -> Mapping[str, float]:
        """Open stores and model and run one search, so that the next one is fast. Milliseconds of each stage."""
        nobody = Identity(self.search_defaults.tenant, self.search_defaults.principals)
        return (await self.search(SearchRequest("warm", nobody, limit=1))).timings_ms

    async def aclose(self) -> None:
        """Release stores and model; idempotent."""
        await self.stores.aclose()
        await self.encoder.aclose()

    async def _answer(
        self, request: SearchRequest, plan: QueryPlan, vectors: QueryVectors, pinned: Pinned, clock: _Clock
    ) -> Answer:
        start = asyncio.get_running_loop().time()
        texts, last = pinned.searchers[plan.text_store], Deadline.after(start, plan.deadlines.texts)
        gathered = await Gatherer(plan, vectors, pinned.searchers, start).gather()
        for stage, seconds in gathered.seconds.items():
            clock.add(stage, seconds)
        clock.lap("fusion")
        order = fused_order(gathered.candidates, gathered.weights)
        places = await fill_page(order, plan, request.identity, texts, last)
        clock.lap("texts")
        hits = _hits(places, gathered)
        if plan.explain and hits:
            hits = await self._explained(request.query, vectors, hits)
            clock.lap("explain")
        empty = None if hits else await explain_empty(plan, request.identity, len(order), texts, last)
        return _compose(request, plan, gathered, hits, empty, clock)

    async def _explained(self, query: str, vectors: QueryVectors, hits: Sequence[Hit]) -> list[Hit]:
        shown = hits[:MAX_EXPLAINED]
        texts = [encoded_text(hit.context, hit.text) for hit in shown]
        explanations = await self.encoder.explain(query, vectors, texts)
        explained = [replace(hit, explanation=why) for hit, why in zip(shown, explanations, strict=True)]
        return [*explained, *hits[MAX_EXPLAINED:]]


class SyncRouter:
    """The same router for code that is not async. For one thread at a time; a context manager."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._runner = asyncio.Runner()

    @classmethod
    def open(cls, config: Config, base: Path) -> SyncRouter:
        """See `Router.open`."""
        return cls(Router.open(config, base))

    def search(self, request: SearchRequest) -> Answer:
        """See `Router.search`."""
        return self._runner.run(self.router.search(request))

    def warm(self) -> Mapping[str, float]:
        """See `Router.warm`."""
        return self._runner.run(self.router.warm())

    def close(self) -> None:
        """Release stores, model and event loop."""
        try:
            self._runner.run(self.router.aclose())
        finally:
            self._runner.close()

    def __enter__(self) -> SyncRouter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Clock:
    """Milliseconds per stage, in the order in which they ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """What passed since the last lap belongs to `stage`, apart from what `add` already told."""
        now = time.perf_counter()
        self._stages[stage] = 1e3 * (now - self._last)
        self._last = now

    def add(self, stage: str, seconds: float) -> None:
        """A stage that was timed elsewhere, since the last lap."""
        self._stages[stage] = 1e3 * seconds
        self._last += seconds

    def stages(self) -> dict[str, float]:
        """All stages and the total so far."""
        return {**self._stages, "total": 1e3 * (time.perf_counter() - self._start)}


def _check_encoder(generation: Generation, encoder: EncoderFacts) -> None:
    if generation.encoder_fingerprint != encoder.fingerprint:
        raise ModelError(
            f"generation {generation.number} was built with the encoder {generation.encoder_fingerprint} "
            f"({generation.model}); the configured model is {encoder.fingerprint}, and their vectors do not meet",
            "name the model the collection was built with, or m3 ingest to build a new generation",
        )


def _hits(places: Sequence[Place], gathered: Gathered) -> list[Hit]:
    ids = [place.payload.id for place in places]
    signals = signal_scores(gathered.candidates, gathered.weights, ids)
    return [_hit(place, signals[place.payload.id]) for place in places]


def _hit(place: Place, signals: Mapping[Signal, SignalScore]) -> Hit:
    payload = place.payload
    return Hit(
        id=payload.id,
        doc_id=payload.doc_id,
        ordinal=payload.ordinal,
        title=payload.title,
        context=payload.context,
        text=payload.text,
        language=payload.language,
        score=place.score,
        signals=signals,
        span=payload.span,
        metadata=payload.metadata,
        further_chunks=place.further_chunks,
    )


def _compose(
    request: SearchRequest,
    plan: QueryPlan,
    gathered: Gathered,
    hits: Sequence[Hit],
    empty: Emptiness | None,
    clock: _Clock,
) -> Answer:
    missed = gathered.missed
    stores = {leg.signal: leg.store for leg in plan.legs}
    return Answer(
        query=request.query,
        hits=tuple(hits),
        coverage={signal: missed[signal].coverage if signal in missed else Coverage.OK for signal in stores},
        why={signal: f"{stores[signal]}: {each.why}" for signal, each in missed.items()},
        generation=plan.generation,
        weights=gathered.weights,
        timings_ms=clock.stages(),
        candidates=len(gathered.candidates.ids),
        plan=plan.as_json() if plan.explain else None,
        empty=empty,
    )
