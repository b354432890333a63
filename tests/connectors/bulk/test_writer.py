"""The bulk writer against a store in memory that fails as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.bulk.backoff import Backoff
from connectors.bulk.items import Budget, BusyError, Item, Kind, MadeLater, Outcome, RefusedError
from connectors.bulk.limit import AdaptiveLimit
from connectors.bulk.writer import BulkWriter, Send
from m3core.errors import LockedError, StoreError

POISON, LARGE = b"poison", b"large"


class Clock:
    """Time that passes only while somebody sleeps or a request takes it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class FaultyStore:
    """Keeps rows; fails whole requests and items with the given probability, sometimes after carrying them out."""

    def __init__(self, seed: int, failing: float) -> None:
        self.random = Random(seed)
        self.failing = failing
        self.rows: dict[str, bytes] = {}
        self.requests: list[list[Item]] = []
        self.lock = threading.Lock()

    def send(self, items: Sequence[Item]) -> list[Outcome]:
        with self.lock:
            return self.answer(items)

    def answer(self, items: Sequence[Item]) -> list[Outcome]:
        self.requests.append(list(items))
        fault = self.random.choice(["before", "after", "some", "items"]) if self.random.random() < self.failing else ""
        if fault == "before":
            raise BusyError("429", retry_after=self.random.choice([0.0, 3.0]), overloaded=True)
        if any(item.body == POISON for item in items) and len(items) > 1:
            raise RefusedError(Kind.PERMANENT, "400 parse_exception")
        outcomes = [self.take(item, fault) for item in items]
        if fault in ("after", "some"):
            raise BusyError("reset")
        return outcomes

    def take(self, item: Item, fault: str) -> Outcome:
        if fault in ("some", "items") and self.random.random() < 0.5:
            return Outcome(item.id, Kind.TRANSIENT, "429 queue")
        if item.body == POISON:
            return Outcome(item.id, Kind.PERMANENT, "400 mapper_parsing_exception")
        if item.body == LARGE:
            return Outcome(item.id, Kind.TOO_LARGE, "413")
        self.rows[item.id] = item.body
        return Outcome(item.id, Kind.DONE)


def make_writer(send: Send, budget: Budget, clock: Clock, check: Callable[[], None] = lambda: None) -> BulkWriter:
    return BulkWriter(
        store="text",
        send=send,
        budget=budget,
        before_request=check,
        backoff=Backoff(random=Random(0)),
        sleep=clock.sleep,
        clock=lambda: clock.now,
    )


@given(
    bodies=st.lists(st.sampled_from([b"a", b"bb" * 9, POISON, LARGE]), max_size=40),
    seed=st.integers(0, 10_000),
    failing=st.sampled_from([0.0, 0.3, 0.6]),
    budget=st.builds(Budget, bytes=st.integers(1, 100), rows=st.integers(1, 9)),
    at_once=st.sampled_from([1, 4]),
)
@settings(max_examples=400)
def test_every_item_ends_once_whatever_fails(
    bodies: list[bytes], seed: int, failing: float, budget: Budget, at_once: int
) -> None:
    items = [Item(str(place), body) for place, body in enumerate(bodies)]
    store, clock = FaultyStore(seed, failing), Clock()
    checks: list[int] = []
    writer = make_writer(store.send, budget, clock, lambda: checks.append(1))
    writer.limit = AdaptiveLimit(at_once)
    failures = writer.write(items)
    assert store.rows == {item.id: item.body for item in items if item.body not in (POISON, LARGE)}
    assert sorted((failure.id, failure.kind) for failure in failures) == sorted(
        (item.id, "permanent" if item.body == POISON else "too-large") for item in items if item.body in (POISON, LARGE)
    )
    for request in store.requests:
        assert len(request) <= budget.rows
        assert len(request) == 1 or sum(len(item.body) for item in request) <= budget.bytes
    counts = writer.counts
    assert len(checks) == counts.requests == len(store.requests)
    assert counts.acknowledged_rows + counts.refused_rows == len(items)
    assert counts.refused_rows == len(failures)
    assert counts.waited_seconds == pytest.approx(sum(clock.slept))
    if not failing and POISON not in bodies:
        assert counts.sent_rows == len(items)
        assert clock.slept == []


def test_a_poison_row_is_found_in_logarithmic_steps() -> None:
    items = [Item(str(place), POISON if place == 700 else b"x") for place in range(1024)]
    store = FaultyStore(0, 0.0)
    writer = make_writer(store.send, Budget(1 << 20, 1024), Clock())
    assert [failure.id for failure in writer.write(items)] == ["700"]
    assert len(store.rows) == 1023
    assert len(store.requests) == 1 + 2 * 10


def test_a_store_that_stays_down_ends_in_an_error_within_the_patience() -> None:
    clock = Clock()

    def down(items: Sequence[Item]) -> list[Outcome]:
        clock.now += 1.0
        raise BusyError("ConnectionError")

    writer = make_writer(down, Budget(100, 2), clock)
    with pytest.raises(StoreError, match=r"store 'text' took no row for \d+ s \(ConnectionError\); 5 wait"):
        writer.write([Item(str(place), b"x") for place in range(5)])
    assert 30 < clock.now <= writer.patience
    assert writer.counts.acknowledged_rows == 0


def test_patience_counts_from_the_last_row_that_was_taken() -> None:
    clock = Clock()
    asked: list[str] = []

    def slow(items: Sequence[Item]) -> list[Outcome]:
        asked.append(items[0].id)
        clock.now += 50.0
        if asked.count(items[0].id) < 3:
            raise BusyError("503")
        return [Outcome(item.id, Kind.DONE) for item in items]

    writer = make_writer(slow, Budget(1, 1), clock)
    writer.patience = 140.0
    assert writer.write([Item(str(place), b"x") for place in range(6)]) == []
    assert clock.now > 6 * 150


def test_what_a_busy_store_asks_for_is_waited() -> None:
    clock = Clock()
    answers = [BusyError("429", retry_after=40.0), None]

    def send(items: Sequence[Item]) -> list[Outcome]:
        if (answer := answers.pop(0)) is not None:
            raise answer
        return [Outcome(item.id, Kind.DONE) for item in items]

    assert make_writer(send, Budget(9, 9), clock).write([Item("a", b"x")]) == []
    assert 40.0 <= clock.slept[0] <= 40.25


def test_an_overloaded_store_gets_smaller_requests() -> None:
    sizes: list[int] = []

    def send(items: Sequence[Item]) -> list[Outcome]:
        sizes.append(len(items))
        if len(items) > 3:
            raise BusyError("429", overloaded=True)
        return [Outcome(item.id, Kind.DONE) for item in items]

    items = [Item(str(place), b"xx") for place in range(16)]
    assert make_writer(send, Budget(1000, 16), Clock()).write(items) == []
    assert sizes[:4] == [16, 8, 4, 2]
    assert max(sizes[4:]) <= 4  # it tries a larger one again from time to time
    assert sizes.count(4) > 1


def test_a_lost_lease_stops_before_the_next_request() -> None:
    sent: list[int] = []

    def send(items: Sequence[Item]) -> list[Outcome]:
        sent.append(len(items))
        return [Outcome(item.id, Kind.DONE) for item in items]

    def check() -> None:
        if len(sent) == 2:
            raise LockedError("the lease was lost")

    writer = make_writer(send, Budget(100, 1), Clock(), check)
    with pytest.raises(LockedError):
        writer.write([Item(str(place), b"x") for place in range(5)])
    assert sent == [1, 1]


@pytest.mark.parametrize("answered", [[], ["0"], ["1", "0"], ["0", "1", "1"], ["0", "2"]])
def test_an_answer_for_other_rows_is_an_error(answered: list[str]) -> None:
    writer = make_writer(lambda _: [Outcome(name, Kind.DONE) for name in answered], Budget(100, 9), Clock())
    with pytest.raises(StoreError, match=f"answered for {len(answered)} rows of 2"):
        writer.write([Item("0", b"x"), Item("1", b"x")])


class Crowd:
    """Takes rows while others are on their way, and counts how many requests that were."""

    def __init__(self, at_once: int) -> None:
        self.barrier = threading.Barrier(at_once, timeout=20)
        self.lock = threading.Lock()
        self.flying = self.most = self.rows = 0

    def send(self, items: Sequence[Item]) -> list[Outcome]:
        with self.lock:
            self.flying += 1
            self.most = max(self.most, self.flying)
        self.barrier.wait()
        with self.lock:
            self.flying -= 1
            self.rows += len(items)
        return [Outcome(item.id, Kind.DONE) for item in items]


def test_items_are_made_while_the_request_before_is_on_its_way() -> None:
    made: list[str] = []

    def make(name: str) -> Item:
        made.append(name)
        return Item(name, b"x")

    names = [f"r{number}" for number in range(8)]
    later = MadeLater(names, make)
    assert (len(later), later[3].id, [one.id for one in later[6:]]) == (8, "r3", ["r6", "r7"])
    made.clear()
    seen: list[int] = []

    def send(items: Sequence[Item]) -> list[Outcome]:
        seen.append(len(made))
        return [Outcome(item.id, Kind.DONE) for item in items]

    writer = BulkWriter("text", send, Budget(1 << 20, 2), lambda: None)
    assert writer.write(later) == []
    assert seen[0] < len(names)
    assert list(dict.fromkeys(made)) == names


def grown(most: int) -> AdaptiveLimit:
    """A limit that a willing store let grow."""
    limit = AdaptiveLimit(most)
    while limit.now < most:
        limit.answered(1.0, limit.now)
    return limit


def test_requests_fly_together_within_the_limit_which_outlives_the_writer() -> None:
    crowd, limit = Crowd(4), grown(4)
    for _ in range(2):
        writer = make_writer(crowd.send, Budget(1 << 20, 100), Clock())
        writer.limit = limit
        assert writer.write([Item(str(place), b"x") for place in range(400)]) == []
    assert (crowd.most, crowd.rows) == (4, 800)


def test_what_fits_into_one_request_is_shared_out_but_not_into_crumbs() -> None:
    for count, requests in ((40, 2), (128, 4), (4000, 40)):
        sizes: list[int] = []

        def send(items: Sequence[Item], sizes: list[int] = sizes) -> list[Outcome]:
            sizes.append(len(items))
            return [Outcome(item.id, Kind.DONE) for item in items]

        writer = make_writer(send, Budget(1 << 20, 100), Clock())
        writer.limit = grown(4)
        writer.write([Item(str(place), b"x") for place in range(count)])
        assert requests <= len(sizes) <= requests + 5
        assert sum(sizes) == count


def test_an_error_waits_for_what_is_on_its_way() -> None:
    ended: list[str] = []
    started = threading.Event()

    def send(items: Sequence[Item]) -> list[Outcome]:
        if items[0].id == "0":
            started.wait(20)
            raise LockedError("the lease was lost")
        started.set()
        ended.append(items[0].id)
        return [Outcome(item.id, Kind.DONE) for item in items]

    writer = make_writer(send, Budget(1 << 20, 100), Clock())
    writer.limit = grown(2)
    with pytest.raises(LockedError):
        writer.write([Item(str(place), b"x") for place in range(64)])
    assert ended == ["32"]
