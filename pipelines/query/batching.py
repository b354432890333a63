"""Queries of several requests in one forward pass: what arrives while the model is busy goes together afterwards.

No request waits for others to arrive: a lone query starts at once, so that batching costs nothing when there is little
to do and pays when there is much.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from m3core.types import QueryVectors

# Queries in one forward pass: beyond this a batch gains little and the first in it waits for the last.
MAX_BATCH = 16

Outcome = QueryVectors | Exception


@dataclass
class QueryBatcher:
    """Gathers queries for `encode`, which answers each with its vectors or an error. For one event loop.

    A text that waits or is in the model already is not encoded a second time. A query whose every caller went away
    before its turn is not encoded.
    """

    encode: Callable[[Sequence[str]], Awaitable[Sequence[Outcome]]]
    most: int = MAX_BATCH
    _waiting: OrderedDict[str, list[asyncio.Future[QueryVectors]]] = field(default_factory=OrderedDict)
    _running: dict[str, list[asyncio.Future[QueryVectors]]] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def vectors(self, query: str) -> QueryVectors:
        """The vectors of one query. Raises what `encode` answers or raises."""
        future: asyncio.Future[QueryVectors] = asyncio.get_running_loop().create_future()
        running = self._running.get(query)
        if running is not None:
            running.append(future)
            return await future
        self._waiting.setdefault(query, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        try:
            return await future
        finally:
            self._forget(query, future)

    async def _work(self) -> None:
        while batch := self._next():
            self._running = batch
            try:
                outcomes = await self.encode(list(batch))
            except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
                outcomes = [error] * len(batch)
            except BaseException:
                # The loop is ending: nobody is left waiting for this batch.
                for futures in batch.values():
                    for future in futures:
                        future.cancel()
                raise
            finally:
                self._running = {}
            for futures, outcome in zip(batch.values(), outcomes, strict=True):
                _tell(futures, outcome)

    def _next(self) -> dict[str, list[asyncio.Future[QueryVectors]]]:
        """The oldest queries, taken out of the queue."""
        return dict(self._waiting.popitem(last=False) for _ in range(min(self.most, len(self._waiting))))

    def _forget(self, query: str, future: asyncio.Future[QueryVectors]) -> None:
        """A caller is gone; a query that nobody waits for leaves the queue."""
        futures = self._waiting.get(query, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[query]


def _tell(futures: Sequence[asyncio.Future[QueryVectors]], outcome: Outcome) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
