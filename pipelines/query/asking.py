"""Ask several stores at once under one absolute deadline; what is late or broken is told apart from what answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from connectors.protocol import StoreTimeoutError
from m3core.errors import StoreError
from pipelines.query.answer import Coverage

Key = TypeVar("Key", bound=Hashable)
Told = TypeVar("Told")

# A store that refuses, is gone, or breaks the connection. Anything else is a fault of ours and is raised.
STORE_FAULTS = (StoreError, OSError, EOFError, TimeoutError)
# Below this a request is not worth sending.
_LEAST_SECONDS = 0.001
# What was cancelled needs a few turns of the loop to end; a client that does not let itself be cancelled gets no more.
_MOMENT_SECONDS = 0.005

# What a person can do about a store that did not answer.
ASK_AGAIN = "search again; if it stays so, check the store and search.timeout"


@dataclass(frozen=True, slots=True)
class Missed:
    """A store that gave no answer in time (`timeout`) or none at all (`failed`), and why, for people."""

    coverage: Coverage
    why: str


@dataclass(frozen=True, slots=True)
class Answers(Generic[Key, Told]):
    """What came back, apart for answers and misses."""

    told: Mapping[Key, Told]
    missed: Mapping[Key, Missed]


@dataclass(frozen=True, slots=True)
class Deadline:
    """An absolute time of the event loop's clock."""

    start: float
    until: float

    @classmethod
    def after(cls, start: float, seconds: float) -> Deadline:
        """The deadline `seconds` after `start`."""
        return cls(start, start + seconds)

    def left(self) -> float:
        """Seconds until the deadline, not negative."""
        return max(0.0, self.until - asyncio.get_running_loop().time())


async def ask_all(asks: Mapping[Key, Callable[[float], Awaitable[Told]]], deadline: Deadline) -> Answers[Key, Told]:
    """Start every ask with the seconds that are left, wait for all of them, and no longer than the deadline.

    What is late is cancelled; it gets a moment to end, no more. Raises what is not a store's fault.
    """
    left = deadline.left()
    if not asks or left < _LEAST_SECONDS:
        return Answers({}, {key: _late(deadline) for key in asks})
    tasks = {key: asyncio.ensure_future(ask(left)) for key, ask in asks.items()}
    for task in tasks.values():
        task.add_done_callback(retrieve)
    late = set(tasks.values())
    try:
        _, late = await asyncio.wait(tasks.values(), timeout=left)
    finally:
        for task in late:
            task.cancel()
    if late:
        # So that the client lets go of its connection and the breaker hears of it before this search goes on.
        await asyncio.wait(late, timeout=_MOMENT_SECONDS)
    told: dict[Key, Told] = {}
    missed: dict[Key, Missed] = {}
    for key, task in tasks.items():
        outcome = _outcome(task, task in late, deadline)
        if isinstance(outcome, Missed):
            missed[key] = outcome
        else:
            told[key] = outcome
    return Answers(told, missed)


def _outcome(task: asyncio.Future[Told], late: bool, deadline: Deadline) -> Told | Missed:
    if late or task.cancelled():
        return _late(deadline)
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, TimeoutError | StoreTimeoutError):
        return _late(deadline)
    if isinstance(error, STORE_FAULTS):
        # An unknown client's message may carry what was asked: only the kind of its fault is told.
        return Missed(Coverage.FAILED, error.message if isinstance(error, StoreError) else type(error).__name__)
    raise error


def _late(deadline: Deadline) -> Missed:
    return Missed(Coverage.TIMEOUT, f"no answer within {deadline.until - deadline.start:.3g} s")


def retrieve(task: asyncio.Future[Told]) -> None:
    """Take a task's exception, so that the loop does not report it as forgotten where another is raised."""
    if not task.cancelled():
        task.exception()
