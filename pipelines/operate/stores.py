"""The stores of a generation as an operator's command opens them: for reading, from a sync function, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from connectors.filters.tree import Everything
from connectors.protocol import Searcher, Sink, StoreOptions, no_check
from connectors.registry import is_embedded, open_searcher, open_sink
from connectors.snapshots.chain import SnapshotChain
from m3core.types import Signal
from pipelines.operate.collection import Collection
from pipelines.state.collection import StoreBinding
from pipelines.state.stores import store_options

T = TypeVar("T")

# Copying and opening a large embedded folder that is not in the page cache, then one request.
SECONDS = 120.0


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
        return not self.embedded or SnapshotChain(self.options().folder).current() is not None

    def options(self, *, revision: int = 0, before_request: Callable[[], None] = no_check) -> StoreOptions:
        """How to open it; a writer names its run and what must hold before each of its requests."""
        place, generation = self.collection.place, self.collection.generation
        return replace(
            store_options(generation, self.binding, place.config, base=place.base, storage=place.storage),
            min_free_bytes=place.config.ingest.min_free_bytes,
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


def stores_of(collection: Collection) -> list[Store]:
    """The stores of the generation, in the order of its list."""
    return [Store(collection, binding) for binding in collection.generation.stores]
