"""The adaptive limit against a store that is simulated request by request on a clock of its own."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.bulk.limit import AdaptiveLimit


@dataclass
class Simulated:
    """A store that answers `capacity` requests at once in a second each; more share it, and from `refuses` on it says
    that it is overloaded."""

    capacity: int
    refuses: int = 1000
    clock: float = 0.0
    flying: list[tuple[float, float, int]] = field(default_factory=list)  # (ends, began, entered)
    seen: list[int] = field(default_factory=list)
    refused: int = 0

    def run(self, limit: AdaptiveLimit, requests: int) -> None:
        for _ in range(requests):
            while len(self.flying) < limit.now:
                entered = limit.enter()
                if len(self.flying) >= self.refuses:
                    self.refused += 1
                    limit.overloaded(entered)
                    break
                seconds = max(1.0, (len(self.flying) + 1) / self.capacity)
                heapq.heappush(self.flying, (self.clock + seconds, self.clock, entered))
            self.seen.append(len(self.flying))
            self.clock, began, _ = heapq.heappop(self.flying)
            limit.answered(self.clock - began, len(self.flying) + 1)


def test_it_begins_with_one_and_grows_to_what_it_may() -> None:
    limit = AdaptiveLimit(most=4)
    assert limit.now == 1
    Simulated(capacity=8).run(limit, 100)
    assert limit.now == 4


def test_the_first_answers_are_enough_to_get_there() -> None:
    limit = AdaptiveLimit(most=4)
    Simulated(capacity=8).run(limit, 4)
    assert limit.now == 4


@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_it_stays_near_what_the_store_answers_without_becoming_slower(capacity: int) -> None:
    limit = AdaptiveLimit(most=64)
    store = Simulated(capacity)
    store.run(limit, 2000)
    # Up to the tolerance of twice as slow.
    assert capacity * 0.8 <= sum(store.seen[-500:]) / 500 <= 3 * capacity


def test_a_store_that_refuses_is_met_by_fewer_at_once() -> None:
    limit = AdaptiveLimit(most=16)
    store = Simulated(capacity=16, refuses=5)
    store.run(limit, 1000)
    assert 2 <= sum(store.seen[-300:]) / 300 <= 5
    assert store.refused < 100  # a search for the bound from time to time, not at every request


def test_what_was_on_its_way_together_is_one_cut() -> None:
    limit = AdaptiveLimit(most=8)
    Simulated(capacity=16).run(limit, 200)
    entered = [limit.enter() for _ in range(limit.now)]
    for each in entered:
        limit.overloaded(each)
    assert limit.now == 4
    limit.overloaded(limit.enter())
    assert limit.now == 2


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    limit = AdaptiveLimit(most=64)
    Simulated(capacity=64).run(limit, 10)
    before = limit.now
    assert 1 < before < 64
    for _ in range(100):
        limit.answered(1.0, flying=1)
    assert limit.now == before


def test_it_recovers_when_the_store_does() -> None:
    limit = AdaptiveLimit(most=4)
    Simulated(capacity=8).run(limit, 100)
    for _ in range(15):
        limit.answered(20.0, max(2, limit.now))
    assert limit.now == 1
    Simulated(capacity=8).run(limit, 200)
    assert limit.now == 4


@given(
    most=st.integers(1, 32),
    events=st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=60),
)
def test_it_keeps_to_its_bounds(most: int, events: list[float | None]) -> None:
    limit = AdaptiveLimit(most=most)
    for event in events:
        if event is None:
            limit.overloaded(limit.enter())
        else:
            limit.answered(event, limit.now)
        assert 1 <= limit.now <= most
