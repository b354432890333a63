"""A breaker per store: what fails again and again is not asked for a while, so that no search waits for it in vain.

    closed     every request goes through; `failures` in a row open the breaker
    open       no request goes through for `rest` seconds
    half-open  one request is the trial, the others are refused: if it works the breaker closes, if it fails the breaker
               opens for twice as long, at most `longest_rest`

A failure is an error of the store, or no answer although the store had `patience` seconds. A request that was late
sooner, because its own caller was in a hurry, says nothing about the store. A trial that nobody finishes is replaced
after `rest` seconds. What a request from before the last change of state brings is not counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from connectors.filters.tree import Filter
from connectors.protocol import Capabilities, Payload, RefusedByStoreError, Scored, Searcher, StoreTimeoutError
from m3core.types import QueryVectors, Signal
from pipelines.query.asking import ASK_AGAIN, STORE_FAULTS
from pipelines.query.errors import RestingError

Told = TypeVar("Told")
Clock = Callable[[], float]


class BreakerState(StrEnum):
    """Whether a store is asked."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Outcome(StrEnum):
    """What one request says about a store."""

    WORKED = "worked"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens, and for how many seconds."""

    failures: int = 5
    rest: float = 2.0
    longest_rest: float = 60.0
    patience: float = 1.0


@dataclass
class Breaker:
    """The breaker of one store. For one event loop; `clock` counts seconds and never goes back."""

    rules: BreakerRules = field(default_factory=BreakerRules)
    clock: Clock = time.monotonic
    _state: BreakerState = BreakerState.CLOSED
    _failures: int = 0
    # How often in a row a trial failed: the rest doubles each time.
    _doublings: int = 0
    # Open: the end of the rest. Half-open: when the trial counts as lost.
    _until: float = 0.0
    _changes: int = 0

    @property
    def state(self) -> BreakerState:
        """As of the last request; an open breaker becomes half-open by the first request after its rest."""
        return self._state

    def enter(self) -> int:
        """A request is about to start: the number to give back to `leave`. Raises RestingError."""
        now = self.clock()
        if self._state is not BreakerState.CLOSED:
            if now < self._until:
                raise RestingError(self._reason(now), ASK_AGAIN)
            self._become(BreakerState.HALF_OPEN, now + self.rules.rest)
        return self._changes

    def leave(self, entered: int, outcome: Outcome) -> None:
        """The request that got `entered` is over."""
        if entered != self._changes:
            return
        if outcome is Outcome.WORKED:
            self._failures = self._doublings = 0
            if self._state is not BreakerState.CLOSED:
                self._become(BreakerState.CLOSED, 0.0)
        elif outcome is Outcome.FAILED:
            self._failed()
        elif self._state is BreakerState.HALF_OPEN:
            # Nothing was learnt: the next request is the trial.
            self._become(BreakerState.OPEN, self.clock())

    def _failed(self) -> None:
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN:
            self._doublings += 1
        elif self._failures < self.rules.failures:
            return
        rest = min(self.rules.longest_rest, self.rules.rest * 2.0 ** min(self._doublings, 32))
        self._become(BreakerState.OPEN, self.clock() + rest)

    def _become(self, state: BreakerState, until: float) -> None:
        self._state, self._until = state, until
        self._changes += 1

    def _reason(self, now: float) -> str:
        if self._state is BreakerState.HALF_OPEN:
            return "not asked: it failed before, and another request is trying it"
        return f"not asked: {self._failures} requests in a row failed; next try in {self._until - now:.1f} s"


@dataclass
class Breakers:
    """The breakers of all stores, by name, made when a store is first asked."""

    rules: BreakerRules = field(default_factory=BreakerRules)
    clock: Clock = time.monotonic
    _breakers: dict[str, Breaker] = field(default_factory=dict)

    def of(self, store: str) -> Breaker:
        """The breaker of one store, the same at every call."""
        return self._breakers.setdefault(store, Breaker(self.rules, self.clock))

    def states(self) -> Mapping[str, BreakerState]:
        """Of every store that was asked so far: for readiness and metrics."""
        return {store: breaker.state for store, breaker in self._breakers.items()}

    def guard(self, searchers: Mapping[str, Searcher]) -> dict[str, Searcher]:
        """The searchers, each behind the breaker of its store."""
        return {store: GuardedSearcher(searcher, self.of(store)) for store, searcher in searchers.items()}


@dataclass(frozen=True, slots=True)
class GuardedSearcher:
    """A searcher behind a breaker. Every request may raise RestingError instead of asking."""

    inner: Searcher
    breaker: Breaker

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        return await self._ask(lambda: self.inner.search(signal, query, where, limit, timeout))

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        return await self._ask(lambda: self.inner.score(signal, query, ids, where, timeout))

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        return await self._ask(lambda: self.inner.fetch(ids, where, timeout))

    async def count(self, where: Filter, timeout: float) -> int:
        return await self._ask(lambda: self.inner.count(where, timeout))

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _ask(self, request: Callable[[], Awaitable[Told]]) -> Told:
        entered, began = self.breaker.enter(), self.breaker.clock()
        outcome = Outcome.UNKNOWN
        try:
            told = await request()
            outcome = Outcome.WORKED
            return told
        except (asyncio.CancelledError, *STORE_FAULTS) as error:
            outcome = self._outcome(error, began)
            raise
        finally:
            self.breaker.leave(entered, outcome)

    def _outcome(self, error: BaseException, began: float) -> Outcome:
        if isinstance(error, RefusedByStoreError):
            return Outcome.UNKNOWN
        # The deadline of a request reaches the client as a cancellation.
        late = isinstance(error, asyncio.CancelledError | TimeoutError | StoreTimeoutError)
        hurried = late and self.breaker.clock() - began < self.breaker.rules.patience
        return Outcome.UNKNOWN if hurried else Outcome.FAILED
