"""The reading side of Elasticsearch: candidates by rounded weights, every score from the exact ones beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from elasticsearch import AsyncElasticsearch

from connectors.elasticsearch.client import es_errors, index_name, open_async_client
from connectors.elasticsearch.filters import Query, es_filter
from connectors.elasticsearch.schema import MAX_QUERY_TOKENS, es_capabilities, payload_of
from connectors.elasticsearch.weights import ROUNDING_ERROR, heaviest, token_weights, unpacked
from connectors.filters.tree import Filter
from connectors.protocol import Capabilities, Payload, Scored, StoreOptions, StoreTimeoutError
from connectors.queries import best_first, check_signal, check_text
from m3core import scoring
from m3core.errors import StoreError
from m3core.types import QueryVectors, Signal

_T = TypeVar("_T")
# `index.max_result_window` of a server that nobody changed.
_WINDOW = 10_000
# Asked for beyond the limit, so that what rounding put in the wrong order at the cut is there to be ordered.
_ROOM = 16
_MOST_ROOM = 16
# Float sums of up to a thousand products, on top of the rounded weights.
_SCORE_ERROR = 1.05 * ROUNDING_ERROR


class ElasticsearchSearcher:
    """Searcher of kind "elasticsearch". Every request carries the caller's deadline, to the server as well."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._index = index_name(options)
        self._opened: AsyncElasticsearch | None = None

    @property
    def capabilities(self) -> Capabilities:
        return es_capabilities(self._schema)

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        check_signal(signal, query, self._schema, self._options.name)
        conditions = es_filter(where, self._schema.fields)
        ids, weights = _tokens(query)
        heavy_ids, heavy_weights = heaviest(ids, weights, MAX_QUERY_TOKENS)
        if limit <= 0 or not len(heavy_ids):
            return []
        sparse = {"field": "lexical", "query_vector": token_weights(heavy_ids, heavy_weights), "prune": False}
        wanted: Query = {"bool": {"must": [{"sparse_vector": sparse}], "filter": [conditions]}}
        deadline = time.monotonic() + timeout
        ask = min(_WINDOW, limit + _ROOM)
        while True:
            hits = await self._hits(wanted, ask, deadline, timeout, sort=["_score", {"id": "asc"}], _source=["weights"])
            best = best_first(self._exact(query, hits), limit)
            # Beyond the cap nothing can be proven: the tokens that were left out may change the order.
            whole = len(heavy_ids) == len(ids)
            if not whole or len(hits) < ask or ask >= min(_WINDOW, _MOST_ROOM * (limit + _ROOM)):
                return best
            largest_unseen = hits[-1]["sort"][0] * float(weights.max()) / (1 - _SCORE_ERROR)
            if best[-1].score > largest_unseen:
                return best
            ask = min(_WINDOW, 4 * ask)

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        check_signal(signal, query, self._schema, self._options.name)
        return self._exact(query, await self._by_id(ids, where, timeout, ["weights"]))

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        check_text(self._schema, self._options.name)
        hits = await self._by_id(ids, where, timeout, ["payload", "revision"])
        return {hit["_id"]: payload_of(hit["_id"], hit["_source"]) for hit in hits}

    async def count(self, where: Filter, timeout: float) -> int:
        conditions = es_filter(where, self._schema.fields)
        deadline = time.monotonic() + timeout
        client = self._client(deadline, timeout)
        query: Query = {"bool": {"filter": [conditions]}}
        answer = await self._within(deadline, timeout, client.count(index=self._index, query=query))
        return int(answer["count"])

    async def aclose(self) -> None:
        client, self._opened = self._opened, None
        if client is not None:
            await client.close()

    async def _by_id(
        self, ids: Sequence[str], where: Filter, timeout: float, source: list[str]
    ) -> list[Mapping[str, Any]]:
        conditions = es_filter(where, self._schema.fields)
        deadline = time.monotonic() + timeout
        hits: list[Mapping[str, Any]] = []
        for part in _parts(list(dict.fromkeys(ids))):
            wanted: Query = {"bool": {"filter": [{"terms": {"id": part}}, conditions]}}
            hits += await self._hits(wanted, len(part), deadline, timeout, sort=["_doc"], _source=source)
        return hits

    async def _hits(
        self, query: Query, size: int, deadline: float, timeout: float, **more: Any
    ) -> list[Mapping[str, Any]]:
        left = max(0.001, deadline - time.monotonic())
        client = self._client(deadline, timeout)
        body = {"query": query, "size": size, "track_total_hits": False, "timeout": f"{int(1000 * left) + 1}ms", **more}
        request = client.search(index=self._index, body=body, allow_partial_search_results=False)
        answer = await self._within(deadline, timeout, request)
        if answer["timed_out"]:
            raise self._late(timeout)
        if answer["_shards"]["failed"]:
            raise StoreError(f"store {self._options.name!r}: a shard did not answer", "see the server's log")
        hits: list[Mapping[str, Any]] = answer["hits"]["hits"]
        return hits

    def _exact(self, query: QueryVectors, hits: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Dot products with the exact weights, which every row of this store has."""
        ids, weights = _tokens(query)
        return {str(hit["_id"]): scoring.lexical(ids, weights, *unpacked(hit["_source"]["weights"])) for hit in hits}

    def _client(self, deadline: float, timeout: float) -> AsyncElasticsearch:
        """The client; raises StoreTimeoutError if no time is left, so that nothing is asked in vain."""
        if time.monotonic() >= deadline:
            raise self._late(timeout)
        if self._opened is None:
            self._opened = open_async_client(self._options)
        return self._opened.options(request_timeout=max(0.001, deadline - time.monotonic()))

    async def _within(self, deadline: float, timeout: float, request: Awaitable[_T]) -> _T:
        try:
            with es_errors(self._options):
                return await asyncio.wait_for(request, max(0.0, deadline - time.monotonic()))
        except (TimeoutError, StoreTimeoutError):
            raise self._late(timeout) from None

    def _late(self, timeout: float) -> StoreTimeoutError:
        return StoreTimeoutError(
            f"store {self._options.name!r} did not answer within {timeout:g} s", "allow more time for the query"
        )


def _tokens(query: QueryVectors) -> tuple[Any, Any]:
    if query.lexical_ids is None or query.lexical_weights is None:
        raise ValueError("check_signal comes first")
    return query.lexical_ids, query.lexical_weights


def _parts(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _WINDOW // 2):
        yield list(ids[start : start + _WINDOW // 2])
