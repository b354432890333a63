"""One loop for every store's bulk requests: bounded, retried, each item accounted for exactly once.

Delivery is at least once: after a timeout or a reset nobody knows whether the request was carried out, so it is sent
again. Ids are deterministic and writes idempotent, so repeats end in the same state.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from connectors.bulk.backoff import Backoff
from connectors.bulk.items import Budget, BusyError, Item, Kind, Outcome, RefusedError, cut
from connectors.protocol import Failure
from m3core.errors import StoreError

Send = Callable[[Sequence[Item]], Sequence[Outcome]]


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


@dataclass
class BulkWriter:
    """Sends items to one store until each is acknowledged or refused.

    `send` carries out one request and tells each item's outcome, or raises BusyError or RefusedError for all of them.
    `before_request` runs before each (the lease). `patience`: seconds without a single acknowledgement after which the
    store counts as down.
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
        while left:
            part, *rest = cut(left.popleft(), self._now or self.budget)
            left.extendleft(reversed(rest))
            try:
                outcomes = self._request(part)
            except RefusedError as refused:
                if len(part) == 1:
                    failures.append(self._refused(part[0].id, refused.kind, refused.reason))
                else:
                    # One item spoils the others: halves isolate it in log2 steps.
                    middle = len(part) // 2
                    left.extendleft((part[middle:], part[:middle]))
            except BusyError as busy:
                left.appendleft(part)
                self._wait(busy, part, left)
            else:
                again = self._settle(part, outcomes, failures)
                if again:
                    left.appendleft(again)
                    reason = next(outcome.reason for outcome in outcomes if outcome.kind is Kind.TRANSIENT)
                    self._wait(BusyError(reason, overloaded=True), again, left)
        return failures

    def _settle(self, part: Sequence[Item], outcomes: Sequence[Outcome], failures: list[Failure]) -> list[Item]:
        """Book every item of an answered request; returns those that are to be sent again."""
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
        if not again and self._now is not None:
            self._now = self._now.grown(self.budget)
        return again

    def _request(self, part: Sequence[Item]) -> Sequence[Outcome]:
        self.before_request()
        self.counts.requests += 1
        self.counts.sent_rows += len(part)
        self.counts.sent_bytes += sum(len(item.body) for item in part)
        outcomes = self.send(part)
        if [outcome.id for outcome in outcomes] != [item.id for item in part]:
            raise StoreError(
                f"store {self.store!r} answered for {len(outcomes)} rows of {len(part)}, or for others",
                "see what stands between; run again: what was written is written again",
            )
        return outcomes

    def _refused(self, chunk_id: str, kind: Kind, reason: str) -> Failure:
        self.counts.refused_rows += 1
        return Failure(chunk_id, kind.value, reason)

    def _wait(self, busy: BusyError, part: Sequence[Item], left: Sequence[Sequence[Item]]) -> None:
        """Wait before `part`, the first of what is left, is sent again; in smaller requests if it was too much."""
        delay = self.backoff.wait(busy.retry_after)
        idle = self.clock() - self._taken_at
        if idle + delay > self.patience:
            raise StoreError(
                f"store {self.store!r} took no row for {idle:.0f} s ({busy.reason}); {sum(map(len, left))} wait",
                "see why it is busy or down, then run again: vectors wait in the lake",
            )
        if busy.overloaded:
            now = self._now or self.budget
            size = sum(len(item.body) for item in part)
            self._now = Budget(min(now.bytes, size), min(now.rows, len(part))).halved()
        self.counts.retried_rows += len(part)
        self.counts.waited_seconds += delay
        self.sleep(delay)
