"""What a search does when parts are late, broken or too many: required signals, breakers, places, deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from m3core.errors import StoreError, UsageError
from m3core.types import Identity, QueryVectors, Signal
from pipelines.query.admission import Admission, AdmissionRules
from pipelines.query.answer import Answer, Coverage, Explanation
from pipelines.query.breaker import BreakerRules, Breakers, BreakerState
from pipelines.query.encoding import EncoderFacts
from pipelines.query.errors import DegradedError, OverloadedError, TenantBusyError
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router

STAFF = Identity("acme", ("staff",))
DOWN = StoreError("down")
# What the machine may be late by; stores that freeze do so for 30 s.
SLACK = 2.0
STORE_OF = {Signal.DENSE: "vectors", Signal.LEXICAL: "words", Signal.MULTI: "tokens"}


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def faults(lost: Signal, fault: Any) -> dict[str, dict[str, Any]]:
    return {STORE_OF[lost]: {f"search {lost}": fault, f"score {lost}": fault}}


@pytest.mark.parametrize("lost", list(Signal))
@pytest.mark.parametrize("fault", [DOWN, 30.0], ids=["down", "frozen"])
def test_a_required_signal_that_is_lost_is_an_error(kit: Any, lost: Signal, fault: Any) -> None:
    world = kit.random_world(9, 40, kit.three_stores)
    request = SearchRequest("x", STAFF, timeout=1.0, require=(lost,))
    began = time.perf_counter()
    with pytest.raises(
        DegradedError, match=f"a required signal did not answer: {lost} from {STORE_OF[lost]}"
    ) as caught:
        world.ask(request, faults(lost, fault))
    assert time.perf_counter() - began < 1.0 + SLACK
    assert caught.value.code == "degraded"
    assert not world.ask(request).degraded
    others = replace(request, require=tuple(signal for signal in Signal if signal is not lost))
    assert world.ask(others, faults(lost, fault)).coverage[lost] is not Coverage.OK


def test_a_signal_that_is_not_asked_cannot_be_required(kit: Any) -> None:
    world = kit.random_world(0, 10)
    with pytest.raises(UsageError) as caught:
        world.ask(SearchRequest("x", STAFF, signals=(Signal.DENSE, Signal.MULTI), require=(Signal.LEXICAL,)))
    assert (caught.value.message, caught.value.remedy) == (
        "require lexical: it is no part of this search",
        "its signals are dense, multi",
    )


def test_breaker_opens_is_tried_and_closes_and_answers_equal_a_plan_without_the_signal(kit: Any) -> None:
    world = kit.random_world(9, 60, kit.three_stores)
    clock = FakeClock()
    router = replace(
        world.router(faults(Signal.LEXICAL, DOWN)), breakers=Breakers(BreakerRules(failures=3, rest=2.0), clock)
    )
    words = router.stores.pinned.searchers["words"]  # type: ignore[attr-defined]
    plain = world.ask(SearchRequest("x", STAFF, signals=(Signal.DENSE, Signal.MULTI)))
    whole = world.ask(SearchRequest("x", STAFF))

    async def ask() -> Answer:
        answer = await router.search(SearchRequest("x", STAFF))
        assert answer.coverage[Signal.DENSE] is answer.coverage[Signal.MULTI] is Coverage.OK
        assert answer.hits == (plain if answer.degraded else whole).hits
        return answer

    async def scene() -> None:
        for _ in range(3):
            assert (await ask()).why == {Signal.LEXICAL: "words: down"}
        assert router.breakers.states()["words"] is BreakerState.OPEN
        resting = await ask()
        assert resting.coverage[Signal.LEXICAL] is Coverage.FAILED
        assert resting.why[Signal.LEXICAL] == "words: not asked: 3 requests in a row failed; next try in 2.0 s"
        clock.now += 2.0
        assert (await ask()).why == {Signal.LEXICAL: "words: down"}
        clock.now += 3.9
        assert "not asked" in (await ask()).why[Signal.LEXICAL]
        words.faults = {}
        clock.now += 0.1
        assert not (await ask()).degraded
        assert router.breakers.states() == dict.fromkeys(("vectors", "words", "tokens"), BreakerState.CLOSED)

    asyncio.run(scene())


def test_breaker_spares_the_wait_for_a_frozen_store(kit: Any) -> None:
    world = kit.random_world(9, 40, kit.three_stores)
    rules = BreakerRules(failures=2, rest=60.0, patience=0.05)
    router = replace(world.router(faults(Signal.LEXICAL, 30.0)), breakers=Breakers(rules))

    async def scene() -> None:
        waits = []
        for _ in range(4):
            answer = await router.search(SearchRequest("x", STAFF, timeout=1.0))
            assert answer.degraded
            waits.append(answer.timings_ms["candidates"])
        # The first two waited until their candidates had to be there, after 0.6 s.
        assert min(waits[:2]) > 500
        assert max(waits[2:]) < 400

    asyncio.run(scene())


def test_hurried_callers_do_not_open_the_breaker_for_the_others(kit: Any) -> None:
    world = kit.random_world(9, 40, kit.three_stores)
    router = replace(world.router({"words": {"search lexical": 1.5}}), breakers=Breakers(BreakerRules(failures=1)))

    async def scene() -> None:
        for _ in range(2):
            assert (await router.search(SearchRequest("x", STAFF, timeout=1.0))).degraded
        assert router.breakers.states()["words"] is BreakerState.CLOSED
        assert not (await router.search(SearchRequest("x", STAFF, timeout=20.0))).degraded

    asyncio.run(scene())


def test_text_store_at_rest_is_an_error(kit: Any) -> None:
    world = kit.random_world(1, 20, kit.three_stores)
    router = replace(world.router({"vectors": {"fetch": DOWN}}), breakers=Breakers(BreakerRules(failures=1, rest=60.0)))

    async def scene() -> None:
        with pytest.raises(StoreError, match="not shown: down"):
            await router.search(SearchRequest("x", STAFF))
        with pytest.raises(StoreError, match="not shown: not asked: 1 requests in a row failed"):
            await router.search(SearchRequest("x", STAFF))

    asyncio.run(scene())


def test_searches_beyond_the_bound_are_refused_at_once_and_places_come_back(kit: Any) -> None:
    world = kit.random_world(1, 20, kit.three_stores)
    router = replace(
        world.router({"words": {"search lexical": 1.0}}),
        admission=Admission(AdmissionRules(searches=3, tenant_share=0.7)),
    )
    other = Identity("other", ("staff",))

    async def scene() -> None:
        running = [asyncio.create_task(router.search(SearchRequest("x", STAFF))) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(TenantBusyError):
            await router.search(SearchRequest("x", STAFF))
        running.append(asyncio.create_task(router.search(SearchRequest("x", other))))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="3 searches are running"):
            await router.search(SearchRequest("x", Identity("third", ("staff",))))
        assert not any(task.done() for task in running)
        running[0].cancel()
        await asyncio.gather(running[0], return_exceptions=True)
        assert (await router.search(SearchRequest("x", STAFF))).hits
        await asyncio.gather(*running[1:])
        assert router.admission.running == 0

    asyncio.run(scene())


def test_cancelled_search_cancels_its_requests_and_frees_its_place(kit: Any) -> None:
    world = kit.random_world(1, 20, kit.three_stores)
    router: Router = world.router(faults(Signal.LEXICAL, 30.0))
    words = router.stores.pinned.searchers["words"]  # type: ignore[attr-defined]

    async def scene() -> None:
        task = asyncio.create_task(router.search(SearchRequest("x", STAFF)))
        await asyncio.sleep(0.05)
        assert router.admission.running == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
        assert words.cancelled == ["search lexical"]
        assert router.admission.running == 0

    asyncio.run(scene())


class SlowEncoder:
    """Takes its time for a query; loading takes longer than any deadline."""

    def __init__(self, inner: Any, seconds: float, loading: float = 0.0) -> None:
        self.inner, self.seconds, self.loading = inner, seconds, loading
        self.cancelled = 0

    async def facts(self) -> EncoderFacts:
        facts: EncoderFacts = await self.inner.facts()
        return facts

    async def ready(self) -> None:
        seconds, self.loading = self.loading, 0.0
        await asyncio.sleep(seconds)

    async def encode_query(self, query: str) -> QueryVectors:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        vectors: QueryVectors = await self.inner.encode_query(query)
        return vectors

    async def explain(self, query: str, vectors: QueryVectors, texts: Sequence[str]) -> list[Explanation]:
        return [Explanation((), ()) for _ in texts]

    async def aclose(self) -> None:
        """Nothing to release."""


def test_a_model_that_is_too_busy_is_an_overload_within_the_deadline(kit: Any) -> None:
    world = kit.random_world(1, 20)
    encoder = SlowEncoder(kit.encoder(world.query), 30.0)
    router = replace(world.router(), encoder=encoder)
    began = time.perf_counter()
    with pytest.raises(OverloadedError, match="the model did not encode the query within"):
        asyncio.run(router.search(SearchRequest("x", STAFF, timeout=0.4)))
    assert time.perf_counter() - began < 0.4 + SLACK
    assert encoder.cancelled == 1


def test_encoding_counts_and_loading_does_not(kit: Any) -> None:
    world = kit.random_world(1, 20, kit.three_stores)
    router = replace(
        world.router({"tokens": {"score multi": 30.0}}),
        encoder=SlowEncoder(kit.encoder(world.query), 0.1, loading=1.3),
    )
    answer = asyncio.run(router.search(SearchRequest("x", STAFF, timeout=1.0)))
    assert answer.coverage == {
        Signal.DENSE: Coverage.OK,
        Signal.LEXICAL: Coverage.OK,
        Signal.MULTI: Coverage.TIMEOUT,
    }
    assert answer.timings_ms["open"] > 1200
    assert answer.timings_ms["total"] - answer.timings_ms["open"] < 1000 * (1.0 + SLACK)
