"""The breaker against its description: a fake clock, every state, and what real requests through it count as."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.filters.tree import Everything
from connectors.protocol import RefusedByStoreError, StoreTimeoutError
from m3core.errors import FilterError, StoreError
from pipelines.query.breaker import Breaker, BreakerRules, Breakers, BreakerState, GuardedSearcher, Outcome
from pipelines.query.errors import RestingError

RULES = BreakerRules(failures=3, rest=2.0, longest_rest=10.0, patience=1.0)


@dataclass
class FakeClock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(RULES, clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.leave(breaker.enter(), Outcome.FAILED)


def test_opens_after_failures_in_a_row_only(breaker: Breaker) -> None:
    for outcome in (Outcome.FAILED, Outcome.FAILED, Outcome.WORKED, Outcome.FAILED, Outcome.FAILED):
        breaker.leave(breaker.enter(), outcome)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker)
    assert breaker.state is BreakerState.OPEN
    with pytest.raises(RestingError, match=r"not asked: 3 requests in a row failed; next try in 2\.0 s"):
        breaker.enter()


def test_what_says_nothing_of_the_store_does_not_count(breaker: Breaker) -> None:
    fail(breaker, 2)
    for _ in range(10):
        breaker.leave(breaker.enter(), Outcome.UNKNOWN)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker)
    assert breaker.state is BreakerState.OPEN


def test_one_trial_closes_it(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker, 3)
    clock.now += 1.99
    with pytest.raises(RestingError):
        breaker.enter()
    clock.now += 0.01
    trial = breaker.enter()
    assert breaker.state is BreakerState.HALF_OPEN
    with pytest.raises(RestingError, match="another request is trying it"):
        breaker.enter()
    breaker.leave(trial, Outcome.WORKED)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


def test_failed_trials_double_the_rest_up_to_a_limit_and_success_resets_it(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker, 3)
    for rest in (2.0, 4.0, 8.0, 10.0, 10.0):
        clock.now += rest - 0.01
        with pytest.raises(RestingError):
            breaker.enter()
        clock.now += 0.01
        fail(breaker)
        assert breaker.state is BreakerState.OPEN
    clock.now += 10.0
    breaker.leave(breaker.enter(), Outcome.WORKED)
    fail(breaker, 3)
    with pytest.raises(RestingError, match=r"next try in 2\.0 s"):
        breaker.enter()


def test_a_trial_that_taught_nothing_makes_way_for_the_next_at_once(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    breaker.leave(breaker.enter(), Outcome.UNKNOWN)
    breaker.leave(breaker.enter(), Outcome.WORKED)
    assert breaker.state is BreakerState.CLOSED


def test_a_lost_trial_is_replaced_and_its_late_outcome_ignored(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker, 3)
    clock.now += 2.0
    lost = breaker.enter()
    clock.now += 2.0
    second = breaker.enter()
    breaker.leave(lost, Outcome.WORKED)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.leave(second, Outcome.FAILED)
    assert breaker.state is BreakerState.OPEN


def test_outcomes_from_before_it_opened_do_not_count(breaker: Breaker, clock: FakeClock) -> None:
    early = [breaker.enter() for _ in range(6)]
    for entered in early[:3]:
        breaker.leave(entered, Outcome.FAILED)
    breaker.leave(early[3], Outcome.WORKED)
    breaker.leave(early[4], Outcome.FAILED)
    assert breaker.state is BreakerState.OPEN
    clock.now += 2.0
    trial = breaker.enter()
    breaker.leave(early[5], Outcome.FAILED)
    breaker.leave(trial, Outcome.WORKED)
    assert breaker.state is BreakerState.CLOSED


@given(
    st.lists(
        st.one_of(
            st.floats(0.0, 3.0),
            st.tuples(st.sampled_from(list(Outcome)), st.booleans()),
        ),
        max_size=80,
    )
)
def test_any_history_keeps_to_the_rules(history: list[Any]) -> None:
    """Never two trials at once; asked again after the longest rest whatever happened before."""
    clock = FakeClock()
    breaker = Breaker(RULES, clock)
    for event in history:
        if isinstance(event, float):
            clock.now += event
            continue
        outcome, finishes = event
        try:
            entered = breaker.enter()
        except RestingError:
            assert breaker.state is not BreakerState.CLOSED
            continue
        if breaker.state is BreakerState.HALF_OPEN:
            with pytest.raises(RestingError):
                breaker.enter()
        if finishes:
            breaker.leave(entered, outcome)
    clock.now += RULES.longest_rest
    breaker.leave(breaker.enter(), Outcome.WORKED)
    assert breaker.state is BreakerState.CLOSED


class Store:
    """Answers a count as it is told to, after so many seconds of the clock."""

    capabilities: Any = None

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.does: Any = 7
        self.takes = 0.0
        self.asked = 0

    async def count(self, where: Any, timeout: float) -> int:
        self.asked += 1
        self.clock.now += self.takes
        if isinstance(self.does, BaseException):
            raise self.does
        if self.does == "hang":
            await asyncio.Event().wait()
        return 7


@pytest.mark.parametrize(
    ("does", "takes", "counts"),
    [
        (StoreError("down"), 0.0, True),
        (ConnectionResetError("reset"), 0.0, True),
        (StoreTimeoutError("late"), 1.5, True),
        (StoreTimeoutError("late"), 0.5, False),
        (FilterError("the store cannot express this"), 5.0, False),
        (RefusedByStoreError("too many clauses"), 5.0, False),
    ],
    ids=["error", "reset", "late", "hurried", "not-its-fault", "refused"],
)
def test_what_a_request_counts_as(
    breaker: Breaker, clock: FakeClock, does: BaseException, takes: float, counts: bool
) -> None:
    store = Store(clock)
    store.does, store.takes = does, takes
    guarded = GuardedSearcher(store, breaker)  # type: ignore[arg-type]

    async def scene() -> None:
        for _ in range(3):
            with pytest.raises(type(does)):
                await guarded.count(Everything(), 9.0)
        assert breaker.state is (BreakerState.OPEN if counts else BreakerState.CLOSED)
        if counts:
            with pytest.raises(RestingError):
                await guarded.count(Everything(), 9.0)
            assert store.asked == 3
            store.does, store.takes = 7, 0.0
            clock.now += RULES.rest
            assert await guarded.count(Everything(), 9.0) == 7
            assert breaker.state is BreakerState.CLOSED

    asyncio.run(scene())


@pytest.mark.parametrize(("waits", "state"), [(1.5, BreakerState.OPEN), (0.2, BreakerState.CLOSED)])
def test_a_cancelled_request_counts_if_the_store_had_its_time(
    breaker: Breaker, clock: FakeClock, waits: float, state: BreakerState
) -> None:
    store = Store(clock)
    store.does = "hang"
    guarded = GuardedSearcher(store, breaker)  # type: ignore[arg-type]

    async def scene() -> None:
        for _ in range(3):
            request = asyncio.create_task(guarded.count(Everything(), 9.0))
            await asyncio.sleep(0)
            clock.now += waits
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    asyncio.run(scene())
    assert breaker.state is state


def test_each_store_has_its_own(clock: FakeClock) -> None:
    breakers = Breakers(RULES, clock)
    fail(breakers.of("words"), 3)
    breakers.of("vectors").enter()
    assert breakers.of("words") is breakers.of("words")
    assert breakers.states() == {"words": BreakerState.OPEN, "vectors": BreakerState.CLOSED}
