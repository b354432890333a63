"""The reading side of Qdrant Edge: a private copy of the published snapshot, followed as new ones are published."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import qdrant_edge as edge

from connectors.filters.tree import Filter
from connectors.ids import known_form
from connectors.protocol import Capabilities, Payload, Scored, StoreOptions, StoreTimeoutError
from connectors.qdrant.edge.filters import edge_filter
from connectors.qdrant.edge.reader import EdgeReader
from connectors.qdrant.edge.schema import edge_capabilities
from connectors.qdrant.edge.shard import shard_errors
from connectors.qdrant.payload import payload_of
from connectors.queries import best_first, check_signal, check_text
from m3core.types import QueryVectors, Signal

_T = TypeVar("_T")
# Ids per multi-vector request: some 20 ms each, so that a deadline is noticed in between.
_MULTI_IDS = 256
# Asked for beyond the limit, so that equal scores at the cut can be ordered by id.
_TIE_ROOM = 16
# How much of its time a warm-up may wait for the disk: enough is left to answer in time.
_WAITED = 0.9


@dataclass(frozen=True)
class _Job:
    """One request in the store's thread."""

    shard: edge.EdgeShard
    deadline: float
    check: Callable[[float], None]

    def in_time(self) -> None:
        self.check(self.deadline)


class EdgeSearcher:
    """Searcher of kind "qdrant-edge".

    Calls run one after the other in a thread of their own. Edge holds Python's global lock during a call, so a timeout
    is noticed before a request starts and between its steps, never inside one: dense and lexical requests take
    milliseconds, multi-vector scores go in steps of some 20 ms. Other threads of the process wait meanwhile: a service
    keeps the searcher in a process of its own.
    """

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._reader = EdgeReader(options)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qdrant-edge")
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        return edge_capabilities(self._schema)

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        check_signal(signal, query, self._schema, self._options.name)
        vector = _query_vector(signal, query)
        if limit <= 0 or vector is None:
            return []
        if signal is Signal.MULTI:
            return await self._run(partial(self._search_multi, query=query, where=where, limit=limit), timeout)
        return await self._run(partial(self._search, signal=signal, vector=vector, where=where, limit=limit), timeout)

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        check_signal(signal, query, self._schema, self._options.name)
        wanted = known_form(ids)
        return await self._run(partial(self._score, signal=signal, query=query, ids=wanted, where=where), timeout)

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        check_text(self._schema, self._options.name)
        wanted = known_form(ids)
        records = await self._run(partial(self._records, ids=wanted, where=where, with_payload=True), timeout)
        return {chunk_id: payload_of(chunk_id, payload) for chunk_id, payload in records.items()}

    async def count(self, where: Filter, timeout: float) -> int:
        request = edge.CountRequest(exact=True, filter=edge_filter(where, self._schema.fields))
        return await self._run(lambda job: job.shard.count(request), timeout)

    async def warm(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        ahead = await self._run(lambda job: self._reader.warm(), timeout)
        if ahead is not None:
            await asyncio.to_thread(ahead.wait, _WAITED * (deadline - time.monotonic()))

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.close)
            self._thread.shutdown()

    async def _run(self, job: Callable[[_Job], _T], timeout: float) -> _T:
        deadline = time.monotonic() + timeout
        self._check(deadline, timeout)
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, job, deadline, timeout)
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise self._late(timeout) from None

    def _guarded(self, job: Callable[[_Job], _T], deadline: float, timeout: float) -> _T:
        self._check(deadline, timeout)  # the thread may have been busy with an earlier request
        shard = self._reader.shard()
        with shard_errors(self._options.name):
            return job(_Job(shard, deadline, partial(self._check, timeout=timeout)))

    def _check(self, deadline: float, timeout: float) -> None:
        if time.monotonic() >= deadline:
            raise self._late(timeout)

    def _late(self, timeout: float) -> StoreTimeoutError:
        return StoreTimeoutError(
            f"store {self._options.name!r} did not answer within {timeout:g} s", "allow more time for the query"
        )

    def _search(self, job: _Job, signal: Signal, vector: Any, where: Filter, limit: int) -> list[Scored]:
        conditions = edge_filter(where, self._schema.fields)
        ask = limit + _TIE_ROOM
        while True:
            job.in_time()
            found = job.shard.query(_nearest(signal, vector, conditions, ask))
            if len(found) < ask or found[-1].score < found[limit - 1].score:
                break
            ask *= 4
        return best_first({str(hit.id): hit.score for hit in found}, limit)

    def _search_multi(self, job: _Job, query: QueryVectors, where: Filter, limit: int) -> list[Scored]:
        best: list[Scored] = []
        for ids in self._pages(job, where):
            scores = {hit.id: hit.score for hit in best} | self._nearest_scores(job, Signal.MULTI, query, ids, where)
            best = best_first(scores, limit)
        return best

    def _pages(self, job: _Job, where: Filter) -> Iterator[list[str]]:
        conditions = edge_filter(where, self._schema.fields)
        at: str | None = None
        while True:
            job.in_time()
            request = edge.ScrollRequest(offset=at, limit=_MULTI_IDS, filter=conditions, with_payload=False)
            records, following = job.shard.scroll(request)
            yield [str(record.id) for record in records]
            if following is None:
                return
            at = str(following)

    def _score(
        self, job: _Job, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter
    ) -> dict[str, float]:
        scores = self._nearest_scores(job, signal, query, ids, where)
        if signal is not Signal.DENSE:
            # Edge leaves out rows without a shared token or without vectors; they score 0 if they are there.
            missing = [chunk_id for chunk_id in ids if chunk_id not in scores]
            scores |= dict.fromkeys(self._records(job, missing, where, with_payload=False), 0.0)
        return scores

    def _nearest_scores(
        self, job: _Job, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter
    ) -> dict[str, float]:
        vector = _query_vector(signal, query)
        if vector is None:
            return {}
        scores: dict[str, float] = {}
        step = _MULTI_IDS if signal is Signal.MULTI else max(1, len(ids))
        # Edge adds up MaxSim; ours is the mean over the query's vectors.
        share = 1 / len(vector) if signal is Signal.MULTI else 1.0
        for start in range(0, len(ids), step):
            job.in_time()
            part = ids[start : start + step]
            conditions = edge_filter(where, self._schema.fields, part)
            found = job.shard.query(_nearest(signal, vector, conditions, len(part)))
            scores |= {str(hit.id): hit.score * share for hit in found}
        return scores

    def _records(
        self, job: _Job, ids: Sequence[str], where: Filter, *, with_payload: bool
    ) -> dict[str, dict[str, Any]]:
        if not ids:
            return {}
        job.in_time()
        conditions = edge_filter(where, self._schema.fields, ids)
        request = edge.ScrollRequest(limit=len(ids), filter=conditions, with_payload=with_payload)
        records, _ = job.shard.scroll(request)
        return {str(record.id): record.payload or {} for record in records}


def _nearest(signal: Signal, vector: Any, conditions: edge.Filter, limit: int) -> edge.QueryRequest:
    return edge.QueryRequest(
        limit=limit,
        query=edge.Query.Nearest(vector, using=signal.value),
        filter=conditions,
        params=edge.SearchParams(exact=True),
    )


def _query_vector(signal: Signal, query: QueryVectors) -> Any:
    """The query as Edge takes it; None if it has no token or vector, which Edge refuses."""
    if signal is Signal.DENSE and query.dense is not None:
        return query.dense.tolist()
    if signal is Signal.MULTI and query.multi is not None:
        return query.multi.tolist() or None
    if signal is Signal.LEXICAL and query.lexical_ids is not None and query.lexical_weights is not None:
        return (
            edge.SparseVector(query.lexical_ids.tolist(), query.lexical_weights.tolist())
            if len(query.lexical_ids)
            else None
        )
    return None
