"""Work that several requests wait for: done once, and carried on when one of those who wait goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from pipelines.query.asking import retrieve

Result = TypeVar("Result")


class Joined(Generic[Result]):
    """One piece of work at a time, each for a key. For one event loop."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._task: asyncio.Task[Result] | None = None

    async def outcome(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What the work for `key` that is being done comes to; if there is none it begins, after any other key's.

        Raises what the work raises, to everyone who waits for it.
        """
        if self._task is None or self._task.done() or self._key != key:
            self._task = asyncio.create_task(_after(self._task, work))
            self._task.add_done_callback(retrieve)
            self._key = key
        return await asyncio.shield(self._task)

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self._task is not None and not self._task.done()

    async def aclose(self) -> None:
        """Give up what is being done; returns when it has ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


async def _after(before: asyncio.Task[Any] | None, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    if before is not None:
        await asyncio.wait({before})
    return await work()
