"""The router: one request in, one answer out, over however many stores the live generation has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from connectors.protocol import WarmSearcher
from m3core.config.model import Config, SearchSection
from m3core.errors import M3Error, ModelError
from m3core.types import Identity, QueryVectors, encoded_text
from pipelines.query.admission import Admission, AdmissionRules
from pipelines.query.answer import Answer, Hit
from pipelines.query.asking import Deadline
from pipelines.query.breaker import BreakerRules, Breakers
from pipelines.query.composing import compose, compose_page, found_hits, freeze, thaw
from pipelines.query.cursor import Cursors, Opened, binding
from pipelines.query.empty import explain_empty
from pipelines.query.encoding import EncoderFacts, ModelEncoder, QueryEncoder
from pipelines.query.errors import OverloadedError
from pipelines.query.explain import MAX_EXPLAINED
from pipelines.query.finding import Finder
from pipelines.query.live import LiveGeneration, LiveStores, Pinned
from pipelines.query.other_models import OtherModels
from pipelines.query.page import fetch_allowed
from pipelines.query.plan import QueryPlan, make_plan
from pipelines.query.request import SearchRequest
from pipelines.query.stopwatch import Stopwatch
from pipelines.state.collection import Generation

# A store's breaker counts a late answer if the store had this part of the configured timeout, at most a second.
_PATIENCE_SHARE, _MOST_PATIENCE = 0.2, 1.0
# A search is slow, for how many are let in at once, when it took this part of the configured timeout.
_SLOW_SHARE = 0.2
# How long the rows of an embedded store may take into memory: 10 GB from a disk of 200 MB/s.
_WARM_SECONDS = 50.0


@dataclass(frozen=True)
class Router:
    """Searches one collection. Long-lived: a new snapshot or generation is picked up by the next request.

    Not tied to a command or a service. `stores` and `encoder` are the seams that tests and a service replace.
    `breakers`, `admission` and `cursors` hold what lasts beyond one request; `others` opens models that a generation
    has and the configuration does not name. For one event loop.
    """

    stores: LiveStores
    encoder: QueryEncoder
    search_defaults: SearchSection
    breakers: Breakers = field(default_factory=Breakers)
    admission: Admission = field(default_factory=Admission)
    cursors: Cursors = field(default_factory=Cursors)
    others: OtherModels | None = None

    @classmethod
    def open(
        cls,
        config: Config,
        base: Path,
        admission: AdmissionRules | None = None,
        cursor_key: bytes | None = None,
    ) -> Router:
        """A router over a configuration; `base` is the folder that its relative paths start from.

        Nothing is read yet: the first request (or `warm`) opens stores and model. Processes that are to take each
        other's cursors share a `cursor_key` of 32 bytes or more.
        """
        name = config.collection.name
        patience = min(_MOST_PATIENCE, _PATIENCE_SHARE * config.search.timeout)
        return cls(
            LiveGeneration(config, base),
            ModelEncoder(config.model, base),
            config.search,
            Breakers(BreakerRules(patience=patience)),
            Admission(admission or AdmissionRules(slow=_SLOW_SHARE * config.search.timeout)),
            Cursors(scope=name) if cursor_key is None else Cursors(cursor_key, scope=name),
            others=OtherModels(config.model, base),
        )

    async def search(self, request: SearchRequest) -> Answer:
        """Answer one request, or one page of a cursor.

        Raises UsageError and FilterError (the request), CursorError (its cursor), StateError and ModelError (nothing
        to search, vectors that do not meet), OverloadedError and TenantBusyError (too many searches at once),
        DegradedError (a required signal is lost) and StoreError (the text store did not answer, or no signal did).
        """
        clock = Stopwatch()
        with self.admission.place(request.identity.tenant) as held:
            try:
                if request.cursor is not None:
                    return await self._page(request, self.cursors.open(request.cursor), clock)
                return await self._search(request, clock)
            finally:
                # Explanations are outside of the deadlines, and as long as their caller asked for.
                held.aside = clock.seconds("explain")

    async def warm(self) -> Mapping[str, float]:
        """Open stores and model and run one search, so that the next one is fast. Milliseconds of each stage."""
        nobody = Identity(self.search_defaults.tenant, self.search_defaults.principals)
        async with self.stores.pin() as pinned:
            for searcher in pinned.searchers.values():
                if isinstance(searcher, WarmSearcher):
                    with suppress(M3Error):  # the search below meets it too: it says so, or does without that store
                        await searcher.warm(_WARM_SECONDS)
        # Not by way of the admission: what happens once says nothing about how many searches are good.
        return (await self._search(SearchRequest("warm", nobody, limit=1), Stopwatch())).timings_ms

    async def aclose(self) -> None:
        """Release stores and model; idempotent."""
        await self.stores.aclose()
        await self.encoder.aclose()
        if self.others is not None:
            await self.others.aclose()

    async def _search(self, request: SearchRequest, clock: Stopwatch) -> Answer:
        async with self.stores.pin() as pinned:
            fitting = await self._fitting(pinned.generation)
            plan = await fitting._plan(request, pinned)
            await fitting.encoder.ready()
            clock.lap("open")
            start = asyncio.get_running_loop().time()
            vectors = await fitting._encoded(plan, start)
            clock.lap("encode")
            searchers = self.breakers.guard(pinned.searchers)
            found = await Finder(request.identity, vectors, searchers, start).find(plan)
            for stage, seconds in found.seconds.items():
                clock.add(stage, seconds)
            hits = await fitting._explained(plan, vectors, found_hits(found), clock)
            answer = compose(request.query, found, hits)
            if not hits:
                # Not by way of the breaker: counts may take longer than searches, and must not keep these from a store.
                texts = pinned.searchers[plan.text_store]
                why = await explain_empty(found, request.identity, texts, Deadline.after(start, plan.deadlines.texts))
                answer = replace(answer, empty=why)
            frozen = freeze(found, pinned.generation.created) if plan.paged else None
            if frozen is not None:
                token = self.cursors.seal(frozen, binding(request.identity, request.query, plan))
                answer = replace(answer, cursor=token)
            return replace(answer, timings_ms=clock.stages())

    async def _page(self, request: SearchRequest, opened: Opened, clock: Stopwatch) -> Answer:
        frozen = opened.frozen
        async with self.stores.pin_texts(frozen.generation, frozen.created) as pinned:
            fitting = await self._fitting(pinned.generation)
            plan = await fitting._plan(request, pinned)
            opened.check(binding(request.identity, request.query, plan))
            clock.lap("open")
            start = asyncio.get_running_loop().time()
            ids = [each for document in frozen.documents[: plan.limit] for each in document.ids]
            texts = self.breakers.guard(pinned.searchers)[plan.text_store]
            last = Deadline.after(start, plan.deadlines.texts)
            page = thaw(frozen, plan, await fetch_allowed(ids, plan, request.identity, texts, last))
            clock.lap("texts")
            hits: Sequence[Hit] = page.hits
            if plan.explain and hits:
                await fitting.encoder.ready()
                vectors = await fitting._encoded(plan, asyncio.get_running_loop().time())
                clock.lap("encode")
                hits = await fitting._explained(plan, vectors, hits, clock)
            answer = compose_page(request.query, frozen, plan, hits, page.gaps)
            if rest := frozen.documents[plan.limit :]:
                left = replace(frozen, documents=rest, next=frozen.next + plan.limit)
                answer = replace(answer, cursor=self.cursors.seal(left, opened.bound, opened.expires))
            return replace(answer, timings_ms=clock.stages())

    async def _fitting(self, generation: Generation) -> Router:
        """This router with the model of the generation, if that is another one and its name leads to it."""
        if self.others is None or (await self.encoder.facts()).fingerprint == generation.encoder_fingerprint:
            return self
        other = await self.others.find(generation)
        return self if other is None else replace(self, encoder=other)

    async def _plan(self, request: SearchRequest, pinned: Pinned) -> QueryPlan:
        encoder = await self.encoder.facts()
        _check_encoder(pinned.generation, encoder)
        return make_plan(request, pinned.generation, encoder.presets, self.search_defaults)

    async def _encoded(self, plan: QueryPlan, start: float) -> QueryVectors:
        left = Deadline.after(start, plan.deadlines.query).left()
        try:
            return await asyncio.wait_for(self.encoder.encode_query(plan.text), left)
        except TimeoutError:
            raise OverloadedError(
                f"the model did not encode the query within {left:.3g} s", "search again later, or allow more time"
            ) from None

    async def _explained(
        self, plan: QueryPlan, vectors: QueryVectors, hits: Sequence[Hit], clock: Stopwatch
    ) -> Sequence[Hit]:
        if not plan.explain or not hits:
            return hits
        shown = hits[:MAX_EXPLAINED]
        texts = [encoded_text(hit.context, hit.text) for hit in shown]
        try:
            explanations = await self.encoder.explain(plan.text, vectors, texts)
        finally:
            clock.lap("explain")
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


def _check_encoder(generation: Generation, encoder: EncoderFacts) -> None:
    if generation.encoder_fingerprint != encoder.fingerprint:
        raise ModelError(
            f"generation {generation.number} was built with the encoder {generation.encoder_fingerprint} "
            f"({generation.model}); the configured model is {encoder.fingerprint}, and their vectors do not meet",
            "name the model the collection was built with, or m3 generations build, then promote",
        )
