"""The reading side of the exact in-memory store: plain formulas over all rows."""

from __future__ import annotations

import time
from collections.abc import Sequence

from connectors.filters.check import check_filter
from connectors.filters.evaluate import matches
from connectors.filters.tree import Filter
from connectors.memory.rows import MemoryRows, find_rows
from connectors.memory.sink import memory_capabilities
from connectors.protocol import Capabilities, Payload, Scored, StoreOptions, StoreTimeoutError
from connectors.queries import best_first, check_signal, check_text, payload_of, shares_signal
from m3core import scoring
from m3core.types import QueryVectors, Row, Signal


class MemorySearcher:
    """Searcher of kind "memory". Every answer is exact; it looks at every row."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema

    @property
    def capabilities(self) -> Capabilities:
        return memory_capabilities(self._schema)

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        check_signal(signal, query, self._schema, self._options.name)
        rows = [row for row in self._rows(where, None, timeout) if shares_signal(signal, query, row.vectors)]
        scores = self._scores(signal, query, rows, timeout)
        return best_first(scores, limit)

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        check_signal(signal, query, self._schema, self._options.name)
        return self._scores(signal, query, self._rows(where, ids, timeout), timeout)

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        check_text(self._schema, self._options.name)
        return {row.chunk.id: payload_of(row) for row in self._rows(where, ids, timeout)}

    async def count(self, where: Filter, timeout: float) -> int:
        return len(self._rows(where, None, timeout))

    async def aclose(self) -> None:
        """The rows stay, for others in this process."""

    def _rows(self, where: Filter, ids: Sequence[str] | None, timeout: float) -> list[Row]:
        check_filter(where, self._schema.fields, by_identity=True)
        self._check(time.monotonic() + timeout, timeout)
        table: MemoryRows = find_rows(self._options)
        if ids is None:
            rows = table.ordered()
        else:
            rows = [row for chunk_id in dict.fromkeys(ids) if (row := table.rows.get(chunk_id)) is not None]
        return [row for row in rows if matches(where, row.chunk)]

    def _scores(self, signal: Signal, query: QueryVectors, rows: list[Row], timeout: float) -> dict[str, float]:
        deadline = time.monotonic() + timeout
        scores: dict[str, float] = {}
        for row in rows:
            self._check(deadline, timeout)
            scores[row.chunk.id] = _score(signal, query, row)
        return scores

    def _check(self, deadline: float, timeout: float) -> None:
        if time.monotonic() >= deadline:
            raise StoreTimeoutError(
                f"store {self._options.name!r} did not answer within {timeout:g} s", "allow more time for the query"
            )


def _score(signal: Signal, query: QueryVectors, row: Row) -> float:
    vectors = row.vectors
    if signal is Signal.DENSE and query.dense is not None:
        return float(scoring.dense(query.dense, vectors.dense[None, :])[0])
    if signal is Signal.LEXICAL and query.lexical_ids is not None and query.lexical_weights is not None:
        return scoring.lexical(query.lexical_ids, query.lexical_weights, vectors.lexical_ids, vectors.lexical_weights)
    if query.multi is not None:
        return scoring.max_sim(query.multi, vectors.multi)
    raise ValueError(f"the query has no {signal} part")
