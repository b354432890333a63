"""Queries of several requests in one forward pass: what arrives while the model is busy goes together afterwards.

No request waits for others to arrive: a lone query starts at once, so that batching costs nothing when there is little
to do and pays when there is much. A batch is as large as what was learnt says will be done within `batch_seconds`: on a
machine that is short of time sixteen queries together would all miss their deadlines, where two at a time are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from m3core.types import QueryVectors

# Queries in one forward pass: beyond this a batch gains little and the first in it waits for the last.
MAX_BATCH = 16
# Well below the share that encoding has of a deadline; sixteen short queries need about that long on two idle cores.
BATCH_SECONDS = 0.4
# Weight of the newest batch in the mean time of a query.
_NEWEST = 0.3

Outcome = QueryVectors | Exception


@dataclass
class QueryBatcher:
    """Gathers queries for `encode`, which answers each with its vectors or an error. For one event loop.

    A text that waits or is in the model already is not encoded a second time. A query whose every caller went away
    before its turn is not encoded.
    """

    encode: Callable[[Sequence[str]], Awaitable[Sequence[Outcome]]]
    most: int = MAX_BATCH
    batch_seconds: float = BATCH_SECONDS
    clock: Callable[[], float] = time.monotonic
    # Mean seconds of one query; 0: nothing is known yet.
    _seconds: float = 0.0
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
            began = self.clock()
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
                self._learn((self.clock() - began) / len(batch))
            for futures, outcome in zip(batch.values(), outcomes, strict=True):
                _tell(futures, outcome)

    def _next(self) -> dict[str, list[asyncio.Future[QueryVectors]]]:
        """The oldest queries, taken out of the queue: as many as will be done in time."""
        fitting = self.most if not self._seconds else max(1, min(self.most, int(self.batch_seconds / self._seconds)))
        return dict(self._waiting.popitem(last=False) for _ in range(min(fitting, len(self._waiting))))

    def _learn(self, seconds: float) -> None:
        self._seconds = seconds if not self._seconds else (1 - _NEWEST) * self._seconds + _NEWEST * seconds

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
