"""A real Elasticsearch behind a proxy that freezes, is slow, resets, refuses or is gone."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from m3core.errors import StoreError
from m3core.types import Identity, Signal
from pipelines.query.answer import Answer, Coverage
from pipelines.query.breaker import BreakerRules, Breakers, BreakerState
from pipelines.query.errors import DegradedError
from pipelines.query.request import SearchRequest
from pipelines.query.router import SyncRouter
from pipelines.state.collection import StoreBinding
from tests.servers import faults
from tests.servers.faults import Choose, FaultProxy, fault_proxy, no_fault
from tests.servers.running import Servers

pytestmark = [pytest.mark.xdist_group("elasticsearch"), pytest.mark.slow]

STAFF = Identity("acme", ("staff",))
WORDS_ASIDE = (
    StoreBinding("vectors", "memory", ("dense", "multi"), True),
    StoreBinding("words", "elasticsearch", ("lexical",), False),
)
TEXTS_THERE = (
    StoreBinding("vectors", "memory", ("dense", "multi"), False),
    StoreBinding("words", "elasticsearch", ("lexical",), True),
)
# What the machine may be late by: it is shared.
SLACK = 2.0


def always(fault: faults.Fault) -> Choose:
    return lambda method, path: fault if path.endswith("/_search") else None


def slow(method: str, path: str) -> None:
    """Forwarded, after longer than a search has."""
    time.sleep(2.5)


FAULTS: dict[str, tuple[Choose, Coverage]] = {
    "frozen": (always(faults.Freeze(6.0, forward=False)), Coverage.TIMEOUT),
    "answer-lost": (always(faults.Freeze(6.0, forward=True)), Coverage.TIMEOUT),
    "slow": (slow, Coverage.TIMEOUT),
    "reset": (always(faults.Reset("before")), Coverage.FAILED),
    "reset-midway": (always(faults.Reset("middle")), Coverage.FAILED),
    "refusing": (always(faults.Answer(429)), Coverage.FAILED),
    "broken": (always(faults.Answer(503)), Coverage.FAILED),
}


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def proxy(servers: Servers) -> Iterator[FaultProxy]:
    with fault_proxy(servers.need("elasticsearch")) as running:
        yield running


def world_of(kit: Any, layout: tuple[StoreBinding, ...], url: str) -> Any:
    rng = np.random.default_rng(2)
    rows = [kit.row(kit.facts(number, doc_id=f"doc-{number % 30}"), kit.vectors(rng)) for number in range(60)]
    return kit.world(rows, kit.query(rng), layout, urls={"words": url})


@contextmanager
def router_of(world: Any, rules: BreakerRules, clock: FakeClock) -> Iterator[SyncRouter]:
    with SyncRouter(replace(world.router(), breakers=Breakers(rules, clock))) as router:
        yield router


def arrived(proxy: FaultProxy) -> int:
    """Requests that the proxy has dealt with."""
    return len(proxy.requests)


def timed(router: SyncRouter, request: SearchRequest) -> tuple[Answer, float]:
    began = time.perf_counter()
    answer = router.search(request)
    return answer, time.perf_counter() - began


WHOLE = SearchRequest("x", STAFF, limit=20, timeout=60.0)
HURRIED = replace(WHOLE, timeout=1.5)


@pytest.mark.parametrize("name", FAULTS)
def test_a_store_that_fails_is_left_out_in_time_tried_again_and_taken_back(
    kit: Any, proxy: FaultProxy, name: str
) -> None:
    fault, coverage = FAULTS[name]
    world, clock = world_of(kit, WORDS_ASIDE, proxy.url), FakeClock()
    # The clock stands still during requests, so that every late answer must count whatever the store's time was.
    rules = BreakerRules(failures=3, rest=2.0, patience=0.0)
    with router_of(world, rules, clock) as router:
        whole = router.search(WHOLE)
        assert not whole.degraded
        plain = router.search(replace(WHOLE, signals=(Signal.DENSE, Signal.MULTI)))
        proxy.choose = fault
        for _ in range(2):
            answer, seconds = timed(router, HURRIED)
            assert answer.coverage == {
                Signal.DENSE: Coverage.OK,
                Signal.LEXICAL: coverage,
                Signal.MULTI: Coverage.OK,
            }
            assert (answer.hits, answer.weights) == (plain.hits, plain.weights)
            assert seconds < 1.5 + SLACK
        with pytest.raises(DegradedError, match="lexical from words: "):
            router.search(replace(HURRIED, require=(Signal.LEXICAL,)))
        assert router.router.breakers.states()["words"] is BreakerState.OPEN
        # A slow request is noted when it is forwarded, which is after the search that made it.
        time.sleep(8.0 if name == "slow" else 0.0)
        asked = arrived(proxy)
        resting, seconds = timed(router, HURRIED)
        assert (resting.hits, seconds < 1.5 + SLACK) == (plain.hits, True)
        assert "not asked: 3 requests in a row failed" in resting.why[Signal.LEXICAL]
        assert arrived(proxy) == asked
        clock.now += 2.0
        assert "not asked" not in router.search(HURRIED).why[Signal.LEXICAL]
        assert name == "slow" or arrived(proxy) == asked + 1
        proxy.choose = no_fault
        clock.now += 4.0
        back = router.search(WHOLE)
        assert not back.degraded
        assert back.hits == whole.hits


def test_a_server_that_is_gone(kit: Any, servers: Servers) -> None:
    servers.need("elasticsearch")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with router_of(world_of(kit, WORDS_ASIDE, url), BreakerRules(), FakeClock()) as router:
            answer, seconds = timed(router, HURRIED)
            plain = router.search(replace(WHOLE, signals=(Signal.DENSE, Signal.MULTI)))
    assert answer.coverage[Signal.LEXICAL] is Coverage.FAILED
    assert answer.hits == plain.hits
    assert seconds < 1.5 + SLACK


@pytest.mark.parametrize("name", FAULTS)
def test_without_the_store_of_the_texts_there_is_no_answer(kit: Any, proxy: FaultProxy, name: str) -> None:
    world = world_of(kit, TEXTS_THERE, proxy.url)
    with router_of(world, BreakerRules(failures=10**9), FakeClock()) as router:
        assert len(router.search(WHOLE).hits) == 20
        proxy.choose = FAULTS[name][0]
        began = time.perf_counter()
        with pytest.raises(StoreError, match="words: the hits could not be checked and are not shown"):
            router.search(HURRIED)
        assert time.perf_counter() - began < 1.5 + SLACK
