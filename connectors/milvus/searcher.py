"""The reading side of Milvus. Every score is exact; only `search(multi)` on a server is by a graph."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from connectors.filters.tree import Filter
from connectors.ids import known_form
from connectors.milvus.client import collection_name
from connectors.milvus.filters import milvus_filter
from connectors.milvus.multi import MultiVectors, PackedVectors, StructVectors
from connectors.milvus.reading import Asked, Reads
from connectors.milvus.records import payload_of
from connectors.milvus.schema import Layout, milvus_capabilities
from connectors.protocol import Capabilities, Payload, Scored, StoreOptions, StoreTimeoutError
from connectors.queries import check_signal, check_text
from m3core.types import QueryVectors, Signal

_T = TypeVar("_T")
_THREADS = 4


class MilvusSearcher:
    """Searcher of kind "milvus". Requests run in threads of their own; each carries the caller's deadline."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._reads = Reads(options)
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="milvus")

    @property
    def capabilities(self) -> Capabilities:
        return milvus_capabilities(self._schema)

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        check_signal(signal, query, self._schema, self._options.name)
        conditions = milvus_filter(where, self._schema.fields)
        if limit <= 0 or not _has_part(signal, query):
            return []
        return await self._run(partial(self._search, signal, query, conditions, limit), timeout)

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        check_signal(signal, query, self._schema, self._options.name)
        conditions = milvus_filter(where, self._schema.fields)
        return await self._run(partial(self._score, signal, query, known_form(ids), conditions), timeout)

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        check_text(self._schema, self._options.name)
        conditions = milvus_filter(where, self._schema.fields)
        columns = ["id", "payload", "revision"]
        records = await self._run(
            lambda deadline: self._reads.by_id(known_form(ids), conditions, columns, deadline), timeout
        )
        return {record["id"]: payload_of(record) for record in records}

    async def count(self, where: Filter, timeout: float) -> int:
        conditions = milvus_filter(where, self._schema.fields)
        [found] = await self._run(lambda deadline: self._reads.query(conditions, ["count(*)"], deadline), timeout)
        return int(found["count(*)"])

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._reads.close()

    async def _run(self, job: Callable[[float], _T], timeout: float) -> _T:
        deadline = time.monotonic() + timeout
        if timeout <= 0:
            raise self._late(timeout)
        future = asyncio.get_running_loop().run_in_executor(self._threads, job, deadline)
        try:
            return await asyncio.wait_for(future, timeout)
        except (TimeoutError, StoreTimeoutError):
            raise self._late(timeout) from None

    def _late(self, timeout: float) -> StoreTimeoutError:
        return StoreTimeoutError(
            f"store {self._options.name!r} did not answer within {timeout:g} s", "allow more time for the query"
        )

    def _search(
        self, signal: Signal, query: QueryVectors, conditions: str, limit: int, deadline: float
    ) -> list[Scored]:
        if signal is Signal.MULTI and query.multi is not None:
            return self._multi(deadline).search(query.multi, conditions, limit, deadline)
        return self._reads.best(_asked(signal, query), conditions, limit, deadline)

    def _score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], conditions: str, deadline: float
    ) -> dict[str, float]:
        if signal is Signal.MULTI and query.multi is not None:
            return self._multi(deadline).score(query.multi, ids, conditions, deadline)
        scores: dict[str, float] = {}
        if _has_part(signal, query):
            scores = self._reads.scores(_asked(signal, query), ids, conditions, deadline)
        if signal is Signal.LEXICAL:
            # The server finds only what shares a token; the others score 0 if they are there.
            missing = [chunk_id for chunk_id in ids if chunk_id not in scores]
            scores |= {record["id"]: 0.0 for record in self._reads.by_id(missing, conditions, ["id"], deadline)}
        return scores

    def _multi(self, deadline: float) -> MultiVectors:
        if self._reads.layout(deadline) is Layout.STRUCTS:
            return StructVectors(self._reads, self._schema.multi_dim)
        return PackedVectors(self._reads, self._schema.multi_dim, collection_name(self._options))


def _has_part(signal: Signal, query: QueryVectors) -> bool:
    """Whether the query has a vector, or a token that counts, to ask for."""
    if signal is Signal.DENSE:
        return True
    if signal is Signal.MULTI:
        return query.multi is not None and len(query.multi) > 0
    return query.lexical_weights is not None and bool((query.lexical_weights > 0).any())


def _asked(signal: Signal, query: QueryVectors) -> Asked:
    if signal is Signal.DENSE:
        return Asked(query.dense, signal.value)
    if query.lexical_ids is None or query.lexical_weights is None:
        raise ValueError("check_signal comes first")
    tokens = zip(query.lexical_ids.tolist(), query.lexical_weights.tolist(), strict=True)
    return Asked({token: weight for token, weight in tokens if weight > 0}, signal.value)
