"""One loop for every store's bulk requests: bounded, retried, each item accounted for exactly once.

Delivery is at least once: after a timeout or a reset nobody knows whether the request was carried out, so it is sent
again. Ids are deterministic and writes idempotent, so repeats end in the same state, and so do requests that overtake
each other: no two of them have an id in common.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from connectors.bulk.backoff import Backoff
from connectors.bulk.items import Budget, BusyError, Item, Kind, Outcome, RefusedError, cut
from connectors.bulk.limit import AdaptiveLimit
from connectors.protocol import Failure
from m3core.errors import StoreError

Send = Callable[[Sequence[Item]], Sequence[Outcome]]
# Fewer rows are not shared out among requests that could be on their way at once.
_LEAST_SHARE = 32


@dataclass
class Counts:
    """What a writer did; counters carry their units in their names."""

    requests: int = 0
    sent_rows: int = 0
    sent_bytes: int = 0
    acknowledged_rows: int = 0
    refused_rows: int = 0
    retried_rows: int = 0
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class _Answer:
    """What became of one request: outcomes by item, or the error of all; `entered` is the limit's."""

    part: Sequence[Item]
    entered: int
    seconds: float
    outcomes: Sequence[Outcome] = ()
    error: BusyError | RefusedError | None = None


@dataclass
class BulkWriter:
    """Sends items to one store until each is acknowledged or refused.

    `send` carries out one request and tells each item's outcome, or raises BusyError or RefusedError for all of them;
    threads call it, as many at once as `limit` says. `before_request` runs before each (the lease). `patience`: seconds
    without a single acknowledgement after which the store counts as down.
    """

    store: str
    send: Send
    budget: Budget
    before_request: Callable[[], None]
    patience: float = 120.0
    backoff: Backoff = field(default_factory=Backoff)
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    counts: Counts = field(default_factory=Counts)
    limit: AdaptiveLimit = field(default_factory=lambda: AdaptiveLimit(most=1))
    # What a request may hold now: halved when the store is overloaded, growing back with every success.
    _now: Budget | None = field(default=None, init=False)
    _taken_at: float = field(default=0.0, init=False)

    def write(self, items: Sequence[Item]) -> list[Failure]:
        """The items that the store refused; every other one was acknowledged.

        Raises StoreError when the store takes nothing for `patience` seconds, or does not answer for every item.
        """
        failures: list[Failure] = []
        left: deque[Sequence[Item]] = deque([items] if items else [])
        self._taken_at = self.clock()
        # An error waits for what is on its way, so that nothing of ours lands after it was told.
        with ThreadPoolExecutor(self.limit.most, thread_name_prefix=f"bulk-{self.store}") as threads:
            flying: set[Future[_Answer]] = set()
            while left or flying:
                while left and len(flying) < self.limit.now:
                    part = self._next(left)
                    begin = self._begin(part)
                    if not flying and (not left or self.limit.now == 1):
                        self._book(begin(), 1, left, failures)  # alone: no need of a thread
                    else:
                        flying.add(threads.submit(begin))
                if flying:
                    done, _ = wait(flying, return_when=FIRST_COMPLETED)
                    for answer in done:
                        self._book(answer.result(), len(flying), left, failures)
                        flying.remove(answer)
        return failures

    def _next(self, left: deque[Sequence[Item]]) -> Sequence[Item]:
        """Take the next request's items off what is left: within the budget, and shared out if several may fly."""
        waiting = left.popleft()
        budget = self._now or self.budget
        if self.limit.now > 1:
            share = max(_LEAST_SHARE, -(-len(waiting) // self.limit.now))
            budget = Budget(budget.bytes, min(budget.rows, share))
        part = next(cut(waiting, budget))
        if rest := waiting[len(part) :]:
            left.appendleft(rest)
        return part

    def _begin(self, part: Sequence[Item]) -> Callable[[], _Answer]:
        """Check the lease and count; the request itself is for a thread."""
        self.before_request()
        self.counts.requests += 1
        self.counts.sent_rows += len(part)
        self.counts.sent_bytes += sum(len(item.body) for item in part)
        entered = self.limit.enter()

        def request() -> _Answer:
            began = self.clock()
            try:
                outcomes = self.send(part)
            except (BusyError, RefusedError) as error:
                return _Answer(part, entered, self.clock() - began, error=error)
            return _Answer(part, entered, self.clock() - began, outcomes)

        return request

    def _book(self, answer: _Answer, flying: int, left: deque[Sequence[Item]], failures: list[Failure]) -> None:
        """Account for one request: what has to be sent again goes back to what is left."""
        part = answer.part
        if isinstance(answer.error, RefusedError):
            if len(part) == 1:
                failures.append(self._refused(part[0].id, answer.error.kind, answer.error.reason))
            else:
                # One item spoils the others: halves isolate it in log2 steps.
                middle = len(part) // 2
                left.extendleft((part[middle:], part[:middle]))
        elif answer.error is not None:
            left.appendleft(part)
            self._wait(answer.error, answer.entered, part, left)
        else:
            again = self._settle(answer, flying, failures)
            if again:
                left.appendleft(again)
                reason = next(outcome.reason for outcome in answer.outcomes if outcome.kind is Kind.TRANSIENT)
                self._wait(BusyError(reason, overloaded=True), answer.entered, again, left)

    def _settle(self, answer: _Answer, flying: int, failures: list[Failure]) -> list[Item]:
        """Book every item of an answered request; returns those that are to be sent again."""
        part, outcomes = answer.part, answer.outcomes
        if [outcome.id for outcome in outcomes] != [item.id for item in part]:
            raise StoreError(
                f"store {self.store!r} answered for {len(outcomes)} rows of {len(part)}, or for others",
                "see what stands between; run again: what was written is written again",
            )
        again: list[Item] = []
        for item, outcome in zip(part, outcomes, strict=True):
            if outcome.kind is Kind.TRANSIENT:
                again.append(item)
            elif outcome.kind is Kind.DONE:
                self.counts.acknowledged_rows += 1
            else:
                failures.append(self._refused(item.id, outcome.kind, outcome.reason))
        if len(again) < len(part):
            self._taken_at = self.clock()
            self.backoff.reset()
        if not again:
            self.limit.answered(answer.seconds / len(part), flying)
            if self._now is not None:
                self._now = self._now.grown(self.budget)
        return again

    def _refused(self, chunk_id: str, kind: Kind, reason: str) -> Failure:
        self.counts.refused_rows += 1
        return Failure(chunk_id, kind.value, reason)

    def _wait(self, busy: BusyError, entered: int, part: Sequence[Item], left: Sequence[Sequence[Item]]) -> None:
        """Wait before `part`, the first of what is left, is sent again; in smaller and fewer requests if it was too
        much."""
        delay = self.backoff.wait(busy.retry_after)
        idle = self.clock() - self._taken_at
        if idle + delay > self.patience:
            raise StoreError(
                f"store {self.store!r} took no row for {idle:.0f} s ({busy.reason}); {sum(map(len, left))} wait",
                "see why it is busy or down, then run again: vectors wait in the lake",
            )
        if busy.overloaded:
            self.limit.overloaded(entered)
            now = self._now or self.budget
            size = sum(len(item.body) for item in part)
            self._now = Budget(min(now.bytes, size), min(now.rows, len(part))).halved()
        self.counts.retried_rows += len(part)
        self.counts.waited_seconds += delay
        self.sleep(delay)
