"""The reading side of a Qdrant server: every request ends at the caller's deadline, which is ours to keep."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from qdrant_client import AsyncQdrantClient, models

from connectors.filters.tree import Filter
from connectors.ids import known_form
from connectors.protocol import Capabilities, Payload, Scored, StoreOptions, StoreTimeoutError
from connectors.qdrant.payload import payload_of
from connectors.qdrant.server.client import collection_name, open_async_client, qdrant_errors
from connectors.qdrant.server.filters import server_filter
from connectors.qdrant.server.schema import server_capabilities
from connectors.queries import best_first, check_signal, check_text
from m3core.types import QueryVectors, Signal

_T = TypeVar("_T")
_Ask = Callable[[AsyncQdrantClient, int], Awaitable[_T]]
# Ids of one request; beyond, the body and the server's work for one answer grow without bound.
_IDS = 1000
# Asked for beyond the limit, so that equal scores at the cut can be ordered by id.
_TIE_ROOM = 16
# How many candidates the walk through the graph keeps: recall@10 of some 0.99 for vectors of 1,024 dimensions.
_LEAST_EF = 256


@dataclass(frozen=True)
class _Deadline:
    """When one call of ours must have its answer, however many requests it takes."""

    seconds: float
    at: float

    @classmethod
    def after(cls, seconds: float) -> _Deadline:
        return cls(seconds, time.monotonic() + seconds)


@dataclass(frozen=True)
class _Nearest:
    """One search request, but for its conditions."""

    signal: Signal
    vector: Any
    limit: int
    exact: bool


class QdrantSearcher:
    """Searcher of kind "qdrant". The server's own timeout is in whole seconds; ours ends a request on time."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._name = collection_name(options)
        self._opened: AsyncQdrantClient | None = None

    @property
    def capabilities(self) -> Capabilities:
        return server_capabilities(self._schema)

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        check_signal(signal, query, self._schema, self._options.name)
        conditions = server_filter(where, self._schema.fields)
        vector = _query_vector(signal, query)
        if limit <= 0 or vector is None:
            return []
        deadline = _Deadline.after(timeout)
        ask = limit + _TIE_ROOM
        while True:
            # Without a graph, as multi-vectors are kept, `exact` is a scan and nothing else would be.
            wanted = _Nearest(signal, vector, ask, exact=signal is Signal.MULTI)
            found = await self._nearest(wanted, conditions, deadline)
            if len(found) < ask or found[-1].score < found[limit - 1].score:
                return best_first(_scores(signal, vector, found), limit)
            ask *= 4

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        check_signal(signal, query, self._schema, self._options.name)
        vector = _query_vector(signal, query)
        deadline = _Deadline.after(timeout)
        scores: dict[str, float] = {}
        for part in _parts(known_form(ids)):
            if vector is not None:
                conditions = server_filter(where, self._schema.fields, part)
                found = await self._nearest(_Nearest(signal, vector, len(part), exact=True), conditions, deadline)
                scores |= _scores(signal, vector, found)
            # Rows without a shared token or without vectors are left out; they score 0 if they are there.
            missing = [] if signal is Signal.DENSE else [chunk_id for chunk_id in part if chunk_id not in scores]
            scores |= dict.fromkeys(await self._records(missing, where, deadline, payload=False), 0.0)
        return scores

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        check_text(self._schema, self._options.name)
        deadline = _Deadline.after(timeout)
        records: dict[str, dict[str, Any]] = {}
        for part in _parts(known_form(ids)):
            records |= await self._records(part, where, deadline, payload=True)
        return {chunk_id: payload_of(chunk_id, payload) for chunk_id, payload in records.items()}

    async def count(self, where: Filter, timeout: float) -> int:
        conditions = server_filter(where, self._schema.fields)

        def ask(client: AsyncQdrantClient, seconds: int) -> Awaitable[models.CountResult]:
            return client.count(self._name, count_filter=conditions, exact=True, timeout=seconds)

        return int((await self._within(ask, _Deadline.after(timeout))).count)

    async def aclose(self) -> None:
        client, self._opened = self._opened, None
        if client is not None:
            await client.close()

    async def _nearest(
        self, wanted: _Nearest, conditions: models.Filter, deadline: _Deadline
    ) -> list[models.ScoredPoint]:
        def ask(client: AsyncQdrantClient, seconds: int) -> Awaitable[models.QueryResponse]:
            return client.query_points(
                self._name,
                query=wanted.vector,
                using=wanted.signal.value,
                query_filter=conditions,
                search_params=models.SearchParams(exact=wanted.exact, hnsw_ef=max(_LEAST_EF, wanted.limit)),
                limit=wanted.limit,
                with_payload=False,
                timeout=seconds,
            )

        return (await self._within(ask, deadline)).points

    async def _records(
        self, ids: Sequence[str], where: Filter, deadline: _Deadline, *, payload: bool
    ) -> dict[str, dict[str, Any]]:
        if not ids:
            return {}
        conditions = server_filter(where, self._schema.fields, ids)

        def ask(client: AsyncQdrantClient, seconds: int) -> Awaitable[tuple[list[models.Record], Any]]:
            return client.scroll(
                self._name, scroll_filter=conditions, limit=len(ids), with_payload=payload, timeout=seconds
            )

        records, _ = await self._within(ask, deadline)
        return {str(record.id): record.payload or {} for record in records}

    async def _within(self, ask: _Ask[_T], deadline: _Deadline) -> _T:
        left = deadline.at - time.monotonic()
        if left <= 0:
            raise self._late(deadline)
        if self._opened is None:
            self._opened = open_async_client(self._options)
        try:
            with qdrant_errors(self._options):
                return await asyncio.wait_for(ask(self._opened, max(1, math.ceil(left))), left)
        except (TimeoutError, StoreTimeoutError):
            raise self._late(deadline) from None

    def _late(self, deadline: _Deadline) -> StoreTimeoutError:
        return StoreTimeoutError(
            f"store {self._options.name!r} did not answer within {deadline.seconds:g} s",
            "allow more time for the query",
        )


def _query_vector(signal: Signal, query: QueryVectors) -> Any:
    """The query as the server takes it; None if it has no token or vector, which the server refuses."""
    if signal is Signal.DENSE and query.dense is not None:
        return query.dense.tolist()
    if signal is Signal.MULTI and query.multi is not None:
        return query.multi.tolist() or None
    if query.lexical_ids is None or query.lexical_weights is None or not len(query.lexical_ids):
        return None
    return models.SparseVector(indices=query.lexical_ids.tolist(), values=query.lexical_weights.tolist())


def _scores(signal: Signal, vector: Any, found: Sequence[models.ScoredPoint]) -> dict[str, float]:
    """Raw M3 scores: the server adds up MaxSim, ours is the mean over the query's vectors."""
    share = 1 / len(vector) if signal is Signal.MULTI else 1.0
    return {str(hit.id): hit.score * share for hit in found}


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _IDS):
        yield ids[start : start + _IDS]
