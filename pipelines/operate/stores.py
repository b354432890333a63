"""The stores of a generation as an operator's command opens them: for reading, from a sync function, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from connectors.connection import connection_of
from connectors.filters.tree import Everything
from connectors.protocol import CollectionSchema, Connection, FieldType, Searcher, Sink, StoreOptions
from connectors.registry import is_embedded, open_searcher, open_sink
from connectors.snapshots.chain import SnapshotChain
from m3core.errors import StateError
from m3core.types import Signal
from pipelines.operate.collection import Collection
from pipelines.state.collection import StoreBinding

T = TypeVar("T")

# Copying and opening a large embedded folder that is not in the page cache, then one request.
SECONDS = 120.0


def _no_check() -> None:
    """A reader changes nothing."""


@dataclass(frozen=True)
class Store:
    """One store of a generation."""

    collection: Collection
    binding: StoreBinding

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.binding.name

    @property
    def embedded(self) -> bool:
        """Whether it is a folder of snapshots."""
        return is_embedded(self.binding.kind)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What it keeps."""
        return tuple(Signal(name) for name in self.binding.signals)

    @property
    def published(self) -> bool:
        """False for an embedded store whose first snapshot is still to come: it has no rows, and cannot be opened."""
        if not self.embedded:
            return True
        folder = self.collection.place.store_folder(self.name) / f"g{self.collection.generation.number:05d}"
        return SnapshotChain(folder).current() is not None

    def options(self, *, revision: int = 0, before_request: Callable[[], None] = _no_check) -> StoreOptions:
        """How to open it; a writer names its run and what must hold before each of its requests."""
        place, generation = self.collection.place, self.collection.generation
        return StoreOptions(
            name=self.name,
            root=place.store_folder(self.name),
            schema=self._schema(),
            min_free_bytes=place.config.ingest.min_free_bytes,
            connection=self._connection(),
            revision=revision,
            building=generation.status == "building",
            before_request=before_request,
        )

    def count(self) -> int:
        """Rows that a search can find, counted by the store."""
        return self.ask(lambda searcher: searcher.count(Everything(), SECONDS)) if self.published else 0

    def ask(self, question: Callable[[Searcher], Coroutine[Any, Any, T]]) -> T:
        """What the reading side answers. Raises what it raises: StoreError, LockedError, DiskFullError."""

        async def answer() -> T:
            async with self._searcher() as searcher:
                return await question(searcher)

        return asyncio.run(answer())

    @contextmanager
    def sink(self, options: StoreOptions | None = None) -> Iterator[Sink]:
        """The writing side; without `ensure` nothing is made or changed."""
        sink = open_sink(self.binding.kind, options or self.options())
        try:
            yield sink
        finally:
            sink.close()

    @asynccontextmanager
    async def _searcher(self) -> AsyncIterator[Searcher]:
        searcher = await asyncio.to_thread(partial(open_searcher, self.binding.kind, self.options()))
        try:
            yield searcher
        finally:
            await searcher.aclose()

    def _connection(self) -> Connection:
        """A server's address; a generation may have a store that the configuration no longer names."""
        section = self.collection.place.config.stores.get(self.name)
        return Connection() if section is None else connection_of(section, self.collection.place.base)

    def _schema(self) -> CollectionSchema:
        generation = self.collection.generation
        try:
            fields = {name: FieldType(kind) for name, kind in generation.fields.items()}
        except ValueError:
            raise StateError(
                f"generation {generation.number} declares a field of an unknown type", "use the version that wrote it"
            ) from None
        return CollectionSchema(
            collection=self.collection.place.name,
            generation=generation.number,
            signals=frozenset(self.signals),
            dense_dim=generation.dense_dim,
            multi_dim=generation.multi_dim,
            fields=fields,
            keeps_text=self.binding.text,
            encoder_fingerprint=generation.encoder_fingerprint,
        )


def stores_of(collection: Collection) -> list[Store]:
    """The stores of the generation, in the order of its list."""
    return [Store(collection, binding) for binding in collection.generation.stores]
