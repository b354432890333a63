"""Reading requests of one store: by filter, by id, by nearness, page by page. Each ends at its caller's deadline.

They block, so the searcher runs them in threads. A deadline is a time of `time.monotonic`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pymilvus import MilvusClient

from connectors.milvus.client import Milvus, collection_name
from connectors.milvus.filters import EVERY_ROW, among
from connectors.milvus.records import Record
from connectors.milvus.schema import Layout
from connectors.protocol import Scored, StoreOptions
from connectors.queries import best_first
from m3core.types import Signal

# A search waits for nothing: it sees what its node has. A run ends with a read that waits (`MilvusSink.flush`).
_BOUNDED = "Bounded"
# The most that a server gives in one answer.
_MOST_HITS = 16_384
# Asked for beyond the limit, so that equal scores at the cut can be ordered by id.
_TIE_ROOM = 16
_IDS = 1000
_ROWS_OF_A_SCAN = 256


@dataclass(frozen=True)
class Asked:
    """What rows are compared with: the query as the client takes it, the column, its metric, and by how much a score
    is larger than ours."""

    vector: Any
    column: str
    metric: str = "IP"
    times: int = 1


class Reads:
    """The reading requests of one store."""

    def __init__(self, options: StoreOptions) -> None:
        self._main = collection_name(options)
        self._server = Milvus(options)

    def close(self) -> None:
        """Idempotent."""
        self._server.close()

    def layout(self, deadline: float) -> Layout:
        """How multi-vectors lie on the server."""
        return self._server.layout(deadline - time.monotonic())

    def best(self, asked: Asked, conditions: str, limit: int, deadline: float) -> list[Scored]:
        """The `limit` best rows that pass, best first, ties by id."""
        ask = min(_MOST_HITS, limit + _TIE_ROOM)
        while True:
            found = self.nearest(asked, conditions, ask, deadline)
            if len(found) < ask or ask == _MOST_HITS or found[-1][1] < found[limit - 1][1]:
                return best_first(dict(found), limit)
            ask = min(_MOST_HITS, 4 * ask)

    def scores(self, asked: Asked, ids: Sequence[str], conditions: str, deadline: float) -> dict[str, float]:
        """Scores of the given rows, as far as they pass and the server finds them."""
        found: dict[str, float] = {}
        for part in cut(ids, _IDS):
            found |= self.nearest(asked, among(part, conditions), len(part), deadline)
        return found

    def nearest(self, asked: Asked, conditions: str, limit: int, deadline: float) -> list[tuple[str, float]]:
        """(id, score) of the best rows, best first; of lexical ones those that share a token."""

        def request(client: MilvusClient, seconds: float) -> Any:
            return client.search(
                self._main,
                data=[asked.vector],
                anns_field=asked.column,
                filter="" if conditions == EVERY_ROW else conditions,
                limit=limit,
                output_fields=["id"],
                search_params={"metric_type": asked.metric},
                consistency_level=_BOUNDED,
                timeout=seconds,
            )

        [hits] = self._server.ask(request, deadline - time.monotonic())
        found = [(str(hit["id"]), float(hit["distance"]) / asked.times) for hit in hits]
        return [pair for pair in found if pair[1] > 0] if asked.column == Signal.LEXICAL else found

    def by_id(self, ids: Iterable[str], conditions: str, columns: list[str], deadline: float) -> list[Record]:
        """Records of the given rows that exist and pass."""
        return [record for part in cut(ids, _IDS) for record in self.query(among(part, conditions), columns, deadline)]

    def query(self, expression: str, columns: list[str], deadline: float, collection: str = "") -> list[Record]:
        """Records of one collection, the main one if none is named."""

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

    def pages(self, conditions: str, columns: list[str], deadline: float) -> Iterator[list[Record]]:
        """All rows that pass."""

        def begin(client: MilvusClient, seconds: float) -> Any:
            return client.query_iterator(
                self._main,
                batch_size=_ROWS_OF_A_SCAN,
                filter=conditions,
                output_fields=columns,
                consistency_level=_BOUNDED,
                timeout=seconds,
            )

        pages = self._server.ask(begin, deadline - time.monotonic())
        try:
            while page := self._server.ask(lambda client, seconds: pages.next(), deadline - time.monotonic()):
                yield page
        finally:
            pages.close()


def cut(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    """In parts of at most `size`."""
    rest = iter(ids)
    while part := list(islice(rest, size)):
        yield part
