"""The reading side of Milvus Lite in process: a private copy of the published snapshot, followed as new ones come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from connectors.filters.check import check_filter
from connectors.filters.tree import Filter
from connectors.milvus.lite.folder import OpenFolder, lite_capabilities
from connectors.milvus.searcher import MilvusSearcher
from connectors.protocol import Capabilities, Payload, Scored, StoreOptions, StoreTimeoutError
from connectors.queries import check_signal, check_text
from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.slots import SnapshotCopy
from m3core.errors import StoreError
from m3core.types import QueryVectors, Signal

_T = TypeVar("_T")


class LiteSearcher:
    """Searcher of kind "milvus-lite". One request at a time: Lite computes under Python's global lock anyway."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._chain = SnapshotChain(options.folder)
        self._turn = asyncio.Lock()
        self._copy: SnapshotCopy | None = None
        self._opened: OpenFolder | None = None
        self._inner: MilvusSearcher | None = None

    @property
    def capabilities(self) -> Capabilities:
        return lite_capabilities(self._schema)

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        check_signal(signal, query, self._schema, self._options.name)
        return await self._run(where, timeout, lambda inner, left: inner.search(signal, query, where, limit, left))

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        check_signal(signal, query, self._schema, self._options.name)
        return await self._run(where, timeout, lambda inner, left: inner.score(signal, query, ids, where, left))

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        check_text(self._schema, self._options.name)
        return await self._run(where, timeout, lambda inner, left: inner.fetch(ids, where, left))

    async def count(self, where: Filter, timeout: float) -> int:
        return await self._run(where, timeout, lambda inner, left: inner.count(where, left))

    async def aclose(self) -> None:
        async with self._turn:
            await self._release()

    async def _run(
        self, where: Filter, timeout: float, request: Callable[[MilvusSearcher, float], Awaitable[_T]]
    ) -> _T:
        check_filter(where, self._schema.fields, by_identity=True)
        deadline = time.monotonic() + timeout
        try:
            await asyncio.wait_for(self._turn.acquire(), timeout)
        except TimeoutError:
            raise self._late(timeout) from None
        try:
            inner = await self._newest()
            return await request(inner, deadline - time.monotonic())
        except StoreTimeoutError:
            raise self._late(timeout) from None
        finally:
            self._turn.release()

    def _late(self, timeout: float) -> StoreTimeoutError:
        return StoreTimeoutError(
            f"store {self._options.name!r} did not answer within {timeout:g} s", "allow more time for the query"
        )

    async def _newest(self) -> MilvusSearcher:
        """A searcher on the newest published snapshot."""
        least = self._options.min_free_bytes
        if self._inner is None or self._copy is None:
            return await self._exchange(await asyncio.to_thread(self._chain.open_copy, min_free=least))
        copy = await asyncio.to_thread(self._chain.newer_copy, self._copy, wait=0.0, min_free=least)
        return self._inner if copy is None else await self._exchange(copy)

    async def _exchange(self, copy: SnapshotCopy) -> MilvusSearcher:
        try:
            opened = await asyncio.to_thread(OpenFolder.open, copy.path, self._options)
        except StoreError:
            copy.spoil()  # the next reader makes a fresh copy
            copy.close()
            raise
        await self._release()
        self._copy, self._opened, self._inner = copy, opened, opened.searcher()
        return self._inner

    async def _release(self) -> None:
        inner, self._inner = self._inner, None
        opened, self._opened = self._opened, None
        copy, self._copy = self._copy, None
        if inner is not None:
            await inner.aclose()
        if opened is not None:
            await asyncio.to_thread(opened.close)
        if copy is not None:
            copy.close()
