"""The reading side of Milvus. Searches are exact; multi-vectors are scored here, from their stored fp16."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from pymilvus import MilvusClient

from connectors.filters.tree import Filter
from connectors.ids import known_form
from connectors.milvus.client import Milvus, collection_name
from connectors.milvus.filters import EVERY_ROW, among, milvus_filter
from connectors.milvus.parts import part_ids, unpack
from connectors.milvus.records import Record, payload_of
from connectors.milvus.schema import collections_of, milvus_capabilities, parts_name
from connectors.protocol import Capabilities, Payload, Scored, StoreOptions, StoreTimeoutError
from connectors.queries import best_first, check_signal, check_text
from m3core import scoring
from m3core.types import Float16Array, QueryVectors, Signal

_T = TypeVar("_T")
# A search waits for nothing: it sees what its node has. A run ends with a read that waits (`MilvusSink.flush`).
_BOUNDED = "Bounded"
# The most that a server gives in one answer.
_MOST_HITS = 16_384
# Asked for beyond the limit, so that equal scores at the cut can be ordered by id.
_TIE_ROOM = 16
_IDS = 1000
# Parts of multi-vectors in one answer: 65 KB each.
_PARTS = 256
_ROWS_OF_A_SCAN = 256
_THREADS = 4


class MilvusSearcher:
    """Searcher of kind "milvus". Requests run in threads of their own; each carries the caller's deadline."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._main = collection_name(options)
        self._server = Milvus(options, [each.name for each in collections_of(options.schema, self._main)])
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="milvus")

    @property
    def capabilities(self) -> Capabilities:
        return milvus_capabilities(self._schema)

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        check_signal(signal, query, self._schema, self._options.name)
        conditions = milvus_filter(where, self._schema.fields)
        if limit <= 0 or _query_vector(signal, query) is None:
            return []
        find = self._search_multi if signal is Signal.MULTI else partial(self._search, signal)
        return await self._run(partial(find, query, conditions, limit), timeout)

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        check_signal(signal, query, self._schema, self._options.name)
        conditions = milvus_filter(where, self._schema.fields)
        score = self._score_multi if signal is Signal.MULTI else partial(self._score, signal)
        return await self._run(partial(score, query, known_form(ids), conditions), timeout)

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        check_text(self._schema, self._options.name)
        conditions = milvus_filter(where, self._schema.fields)
        records = await self._run(
            lambda deadline: self._by_id(known_form(ids), conditions, ["id", "payload", "revision"], deadline), timeout
        )
        return {record["id"]: payload_of(record) for record in records}

    async def count(self, where: Filter, timeout: float) -> int:
        conditions = milvus_filter(where, self._schema.fields)
        [found] = await self._run(lambda deadline: self._query(conditions, ["count(*)"], deadline), timeout)
        return int(found["count(*)"])

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._server.close()

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
        ask = min(_MOST_HITS, limit + _TIE_ROOM)
        while True:
            found = self._nearest(signal, query, conditions, ask, deadline)
            if len(found) < ask or ask == _MOST_HITS or found[-1][1] < found[limit - 1][1]:
                return best_first(dict(found), limit)
            ask = min(_MOST_HITS, 4 * ask)

    def _score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], conditions: str, deadline: float
    ) -> dict[str, float]:
        scores: dict[str, float] = {}
        if _query_vector(signal, query) is not None:
            for part in _cut(ids, _IDS):
                scores |= self._nearest(signal, query, among(part, conditions), len(part), deadline)
        if signal is Signal.LEXICAL:
            # The server finds only what shares a token; the others score 0 if they are there.
            missing = [chunk_id for chunk_id in ids if chunk_id not in scores]
            scores |= {record["id"]: 0.0 for record in self._by_id(missing, conditions, ["id"], deadline)}
        return scores

    def _score_multi(
        self, query: QueryVectors, ids: Sequence[str], conditions: str, deadline: float
    ) -> dict[str, float]:
        vectors = {
            record["id"]: int(record["vectors"]) for record in self._by_id(ids, conditions, ["id", "vectors"], deadline)
        }
        return {
            chunk_id: scoring.max_sim(_multi(query), stored)
            for chunk_id, stored in self._multi_vectors(vectors, deadline)
        }

    def _search_multi(self, query: QueryVectors, conditions: str, limit: int, deadline: float) -> list[Scored]:
        """Every row that passes, page by page: the router asks for scores of candidates instead."""
        best: list[Scored] = []
        for page in self._pages(conditions, deadline):
            vectors = {record["id"]: int(record["vectors"]) for record in page if record["vectors"]}
            scores = {hit.id: hit.score for hit in best}
            for chunk_id, stored in self._multi_vectors(vectors, deadline):
                scores[chunk_id] = scoring.max_sim(_multi(query), stored)
            best = best_first(scores, limit)
        return best

    def _multi_vectors(self, vectors: dict[str, int], deadline: float) -> Iterator[tuple[str, Float16Array]]:
        """Multi-vectors by chunk id, read in answers of bounded size. `vectors`: how many each row has."""
        dim = self._schema.multi_dim
        for rows in _bounded(vectors, dim):
            wanted = [part for chunk_id in rows for part in part_ids(chunk_id, vectors[chunk_id], dim)]
            found: dict[str, str] = {}
            for part in _cut(wanted, _PARTS):
                records = self._query(among(part), ["id", "packed"], deadline, parts_name(self._main))
                found |= {record["id"]: record["packed"] for record in records}
            for chunk_id in rows:
                yield chunk_id, unpack(chunk_id, vectors[chunk_id], dim, found)

    def _nearest(
        self, signal: Signal, query: QueryVectors, conditions: str, limit: int, deadline: float
    ) -> list[tuple[str, float]]:
        """(id, score) of the best rows, best first."""

        def request(client: MilvusClient, seconds: float) -> Any:
            return client.search(
                self._main,
                data=[_query_vector(signal, query)],
                anns_field=signal.value,
                filter="" if conditions == EVERY_ROW else conditions,
                limit=limit,
                output_fields=["id"],
                search_params={"metric_type": "IP"},
                consistency_level=_BOUNDED,
                timeout=seconds,
            )

        [hits] = self._server.ask(request, deadline - time.monotonic())
        found = [(str(hit["id"]), float(hit["distance"])) for hit in hits]
        return [pair for pair in found if pair[1] > 0] if signal is Signal.LEXICAL else found

    def _by_id(self, ids: Sequence[str], conditions: str, columns: list[str], deadline: float) -> list[Record]:
        return [
            record for part in _cut(ids, _IDS) for record in self._query(among(part, conditions), columns, deadline)
        ]

    def _query(self, expression: str, columns: list[str], deadline: float, collection: str = "") -> list[Record]:
        def request(client: MilvusClient, seconds: float) -> list[Record]:
            found = client.query(
                collection or self._main,
                filter=expression,
                output_fields=columns,
                consistency_level=_BOUNDED,
                timeout=seconds,
            )
            return list(found)

        return self._server.ask(request, deadline - time.monotonic())

    def _pages(self, conditions: str, deadline: float) -> Iterator[list[Record]]:
        """Ids and numbers of vectors of all rows that pass."""

        def begin(client: MilvusClient, seconds: float) -> Any:
            return client.query_iterator(
                self._main,
                batch_size=_ROWS_OF_A_SCAN,
                filter=conditions,
                output_fields=["id", "vectors"],
                consistency_level=_BOUNDED,
                timeout=seconds,
            )

        pages = self._server.ask(begin, deadline - time.monotonic())
        try:
            while page := self._server.ask(lambda client, seconds: pages.next(), deadline - time.monotonic()):
                yield page
        finally:
            pages.close()


def _query_vector(signal: Signal, query: QueryVectors) -> Any:
    """The query as the server takes it; None if it has no token or vector."""
    if signal is Signal.DENSE:
        return query.dense
    if signal is Signal.MULTI:
        return query.multi if query.multi is not None and len(query.multi) else None
    if query.lexical_ids is None or query.lexical_weights is None:
        return None
    tokens = zip(query.lexical_ids.tolist(), query.lexical_weights.tolist(), strict=True)
    return {token: weight for token, weight in tokens if weight > 0} or None


def _multi(query: QueryVectors) -> Any:
    if query.multi is None:
        raise ValueError("check_signal comes first")
    return query.multi


def _bounded(vectors: dict[str, int], dim: int) -> Iterator[list[str]]:
    """Ids in groups whose parts go into one answer, one id at least."""
    group: list[str] = []
    size = 0
    for chunk_id, count in vectors.items():
        parts = sum(1 for _ in part_ids(chunk_id, count, dim))
        if group and size + parts > _PARTS:
            yield group
            group, size = [], 0
        group.append(chunk_id)
        size += parts
    if group:
        yield group


def _cut(ids: Sequence[str], size: int) -> Iterator[list[str]]:
    rest = iter(ids)
    while part := list(islice(rest, size)):
        yield part
