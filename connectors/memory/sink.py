"""The writing side of the exact in-memory store: the oracle of the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

from connectors.memory.rows import MemoryRows, create_rows, drop_rows, find_rows, has_rows
from connectors.protocol import Capabilities, CollectionSchema, Patch, StoreFacts, StoreOptions, WriteResult
from connectors.rows import checked_patches, split_rows
from m3core.types import Row


def memory_capabilities(schema: CollectionSchema) -> Capabilities:
    """Everything, exactly, within one process."""
    return Capabilities(
        signals=schema.signals,
        keeps_text=schema.keeps_text,
        fences=False,
        patches_in_place=True,
        exact=True,
        max_vectors_per_row=1 << 20,
        embedded=False,
    )


class MemorySink:
    """Sink of kind "memory": for tests and trials; the rows are gone when the process ends."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options

    @property
    def capabilities(self) -> Capabilities:
        return memory_capabilities(self._options.schema)

    def ensure(self, schema: CollectionSchema) -> None:
        create_rows(self._options, schema)

    def write(self, rows: Sequence[Row]) -> WriteResult:
        good, failures = split_rows(rows, self._options.schema, self.capabilities)
        self._table.upsert(good)
        return WriteResult(len(good), failures)

    def delete(self, ids: Sequence[str]) -> None:
        self._table.delete(ids)

    def patch(self, patches: Sequence[Patch]) -> None:
        self._table.patch(checked_patches(patches, self._options.schema))

    def scan(self) -> Iterator[tuple[str, int]]:
        for row in self._table.ordered():
            yield row.chunk.id, row.revision

    def count(self) -> int:
        return len(self._table.rows)

    def facts(self) -> StoreFacts:
        return StoreFacts(version("threefold"))

    def verify(self) -> bool:
        return has_rows(self._options, self._options.schema)

    def flush(self) -> None:
        """Nothing is buffered."""

    def drop(self) -> None:
        drop_rows(self._options)

    def compact(self) -> None:
        """Nothing is kept of deleted rows."""

    def close(self) -> None:
        """The rows stay, for searchers of this process."""

    @property
    def _table(self) -> MemoryRows:
        return find_rows(self._options)
