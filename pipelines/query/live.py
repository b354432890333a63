"""The live generation's stores, pinned while a request uses them; the next request sees what is new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from connectors.filters.tree import Everything
from connectors.protocol import Searcher, StoreOptions
from connectors.registry import is_embedded, open_searcher
from m3core.config.model import Config
from m3core.errors import StoreError, UsageError
from pipelines.query.errors import CursorError
from pipelines.query.joined import Joined
from pipelines.query.known import KnownCollection
from pipelines.state.collection import Generation
from pipelines.state.paths import StatePaths
from pipelines.state.storage import storage_of
from pipelines.state.stores import store_options

# How a store of a kind is opened for reading: here, or in a process of its own.
OpenSearcher = Callable[[str, StoreOptions], Searcher]
# Copying and opening a large embedded folder that is not in the page cache.
OPENING_SECONDS = 120.0


@dataclass(frozen=True)
class Pinned:
    """One generation and the reading sides of its stores, by store name. Valid while the pin is held."""

    generation: Generation
    searchers: Mapping[str, Searcher]


class LiveStores(Protocol):
    """Where the router gets the stores of a request from."""

    def pin(self) -> AbstractAsyncContextManager[Pinned]:
        """The stores as they are now, kept open until the block ends."""

    def pin_texts(self, generation: int, created: str) -> AbstractAsyncContextManager[Pinned]:
        """The store that keeps the texts of one generation, live or retired: what a cursor needs for its next page.

        Raises CursorError if that generation is gone.
        """

    async def aclose(self) -> None:
        """Release everything that no request holds; idempotent."""


@dataclass
class _Opened:
    """Open searchers of one generation, and how many requests use them."""

    pinned: Pinned
    users: int = 0
    replaced: bool = False

    async def close_if_free(self) -> None:
        if self.replaced and self.users == 0:
            await _close(self.pinned.searchers)


class LiveGeneration:
    """`LiveStores` of a configuration: each request asks which generation is live.

    Within a generation an embedded store's searcher follows its snapshots by itself, maybe while a request runs. That
    is safe: one id never means two texts, and a hit is shown only if its row is there when the texts are fetched.
    """

    def __init__(self, config: Config, base: Path, opener: OpenSearcher = open_searcher) -> None:
        self._config = config
        self._base = base
        self._opener = opener
        self._storage = storage_of(config, base)
        self._known = KnownCollection(StatePaths.of(self._storage, config.collection.name))
        self._opening: Joined[None] = Joined()
        self._opened: _Opened | None = None

    @asynccontextmanager
    async def pin(self) -> AsyncIterator[Pinned]:
        """See `LiveStores.pin`. Raises UsageError without a live generation, StateError and StoreError."""
        opened = await self._current()
        try:
            yield opened.pinned
        finally:
            opened.users -= 1
            await opened.close_if_free()

    @asynccontextmanager
    async def pin_texts(self, generation: int, created: str) -> AsyncIterator[Pinned]:
        """See `LiveStores.pin_texts`. A retired generation's store is opened for this one page."""
        state = await self._known.state()
        known = () if state is None else state.generations
        wanted = next((each for each in known if (each.number, each.created) == (generation, created)), None)
        if wanted is None or wanted.status not in ("live", "retired"):
            raise CursorError(f"generation {generation} of this cursor is gone", "search again from the first page")
        if wanted.status == "live":
            async with self.pin() as pinned:
                if _same(pinned.generation, wanted):
                    yield pinned
                    return
        texts = tuple(binding for binding in wanted.stores if binding.text)
        searchers = await self._open(replace(wanted, stores=texts))
        try:
            yield Pinned(wanted, searchers)
        finally:
            await _close(searchers)

    async def aclose(self) -> None:
        await self._opening.aclose()
        await self._known.aclose()
        await self._replace(None)

    async def _current(self) -> _Opened:
        while True:
            generation = await self._generation()
            opened = self._opened
            if opened is not None and _same(opened.pinned.generation, generation):
                opened.users += 1
                return opened
            key = (generation.number, generation.created)
            await self._opening.outcome(key, partial(self._open_instead, generation))

    async def _open_instead(self, generation: Generation) -> None:
        await self._replace(_Opened(Pinned(generation, await self._open(generation))))

    async def _replace(self, fresh: _Opened | None) -> None:
        """From now on requests use `fresh`; what was open is closed once nobody uses it."""
        before, self._opened = self._opened, fresh
        if before is not None:
            before.replaced = True
            await before.close_if_free()

    async def _generation(self) -> Generation:
        state = await self._known.state()
        name = self._config.collection.name
        live = None if state is None else state.live_generation
        if live is None:
            raise UsageError(f"collection {name!r} has nothing to search yet: no run was finished", "m3 ingest")
        return live

    async def _open(self, generation: Generation) -> dict[str, Searcher]:
        searchers: dict[str, Searcher] = {}
        try:
            for binding in generation.stores:
                options = store_options(generation, binding, self._config, base=self._base, storage=self._storage)
                searcher = await asyncio.to_thread(self._opener, binding.kind, options)
                searchers[binding.name] = searcher
                if is_embedded(binding.kind):
                    await _prime(searcher)
        except BaseException:
            await _close(searchers)
            raise
        return searchers


class OneGeneration(LiveGeneration):
    """`LiveStores` of one generation, live or not: to try it before searches find it."""

    def __init__(self, config: Config, base: Path, generation: Generation) -> None:
        super().__init__(config, base)
        self._one = generation

    async def _generation(self) -> Generation:
        return self._one


def _same(opened: Generation, live: Generation) -> bool:
    # A run changes other facts of a generation, not where its rows are; a state folder that was made anew does.
    return (opened.number, opened.created) == (live.number, live.created)


async def _prime(searcher: Searcher) -> None:
    """Let an embedded store open its folder now, outside of any query's deadline."""
    # What stops it here stops the query too, which tells it from the other stores' answers.
    with suppress(StoreError):
        await searcher.count(Everything(), OPENING_SECONDS)


async def _close(searchers: Mapping[str, Searcher]) -> None:
    for searcher in searchers.values():
        await searcher.aclose()
