"""One store of any kind under a small interface: write and publish, then search."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from connectors.filters.tree import Everything, Filter
from connectors.protocol import (
    CollectionSchema,
    EmbeddedSink,
    LoadingSink,
    Payload,
    Scored,
    Searcher,
    Sink,
    StoreOptions,
    WriteResult,
)
from connectors.registry import open_searcher, open_sink, signals_of
from m3core.types import QueryVectors, Row, Signal
from tests.conformance.data import SCHEMA, VOCABULARY, make_query
from tests.servers.running import connection_of, kind_of

_T = TypeVar("_T")
TIMEOUT = 60.0
EVERY_ROW = Everything()


def schema_for(kind: str) -> CollectionSchema:
    """The suite's collection with the signals that this kind declares."""
    return replace(SCHEMA, signals=frozenset(signals_of(kind_of(kind))))


@dataclass
class Store:
    """One store of one kind in a folder of its own; on a server, under a prefix of its own.

    `kind` is one of the registry, or of a server that stands in for one (`kind_of`).
    """

    kind: str
    root: Path
    schema: CollectionSchema
    _open: list[Sink] = field(default_factory=list)
    _searchers: list[tuple[asyncio.AbstractEventLoop, Searcher]] = field(default_factory=list)

    @classmethod
    def of(cls, kind: str, root: Path, **changes: Any) -> Store:
        """A store of the suite's collection, with changes to its schema."""
        return cls(kind, root, replace(schema_for(kind), **changes))

    @property
    def options(self) -> StoreOptions:
        return StoreOptions(
            name="main",
            root=self.root,
            schema=self.schema,
            min_free_bytes=1 << 20,
            connection=connection_of(self.kind, self.root),
        )

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What the store keeps, in the order of `Signal`."""
        return tuple(signal for signal in Signal if signal in self.schema.signals)

    def opened(self, **changes: Any) -> Sink:
        """A sink that nobody ensured and the caller closes, with changes to its options."""
        return open_sink(kind_of(self.kind), replace(self.options, **changes))

    def sink(self) -> Sink:
        """A sink on the ensured store."""
        sink = self.opened()
        self._open.append(sink)
        sink.ensure(self.schema)
        return sink

    def write(self, rows: Sequence[Row]) -> WriteResult:
        """Write and make visible, with a sink of its own."""
        return self.change(lambda sink: sink.write(rows))

    def change(self, change: Callable[[Sink], _T]) -> _T:
        """Run `change` on a sink of its own and make its effect visible."""
        sink = self.sink()
        result = change(sink)
        publish(sink)
        sink.close()
        return result

    def listed(self) -> list[tuple[str, int]]:
        sink = self.sink()
        rows = list(sink.scan())
        assert sink.count() == len(rows)
        publish(sink)
        sink.close()
        return rows

    def search(self, signal: Signal, query: QueryVectors, where: Filter = EVERY_ROW, limit: int = 10) -> list[Scored]:
        return self.ask(lambda searcher: searcher.search(signal, query, where, limit, TIMEOUT))

    def visible(self, where: Filter = EVERY_ROW) -> set[str]:
        """Ids of the rows that a search finds: nearest to any vector, or with any token."""
        return {hit.id for hit in self.search(self.signals[0], make_query(0, tokens=VOCABULARY), where, limit=1000)}

    def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter = EVERY_ROW
    ) -> dict[str, float]:
        return self.ask(lambda searcher: searcher.score(signal, query, ids, where, TIMEOUT))

    def fetch(self, ids: Sequence[str], where: Filter = EVERY_ROW) -> dict[str, Payload]:
        return self.ask(lambda searcher: searcher.fetch(ids, where, TIMEOUT))

    def count(self, where: Filter = EVERY_ROW) -> int:
        return self.ask(lambda searcher: searcher.count(where, TIMEOUT))

    def ask(self, request: Callable[[Searcher], Coroutine[Any, Any, _T]]) -> _T:
        """One request, through one searcher that stays open for the store's life."""
        if not self._searchers:
            self._searchers.append((asyncio.new_event_loop(), open_searcher(kind_of(self.kind), self.options)))
        loop, searcher = self._searchers[0]
        return loop.run_until_complete(request(searcher))

    def close(self) -> None:
        """Close everything that was opened; the store can be opened again."""
        for sink in self._open:
            sink.close()
        self._open.clear()
        for loop, searcher in self._searchers:
            loop.run_until_complete(searcher.aclose())
            loop.close()
        self._searchers.clear()


@contextmanager
def quick_store(kind: str, otherwise: Path) -> Iterator[Store]:
    """An empty store in a `quick_folder`, closed at the end."""
    with quick_folder(otherwise) as folder:
        opened = Store.of(kind, folder / "main")
        yield opened
        opened.close()


def publish(sink: Sink) -> None:
    """What the end of a run does."""
    sink.flush()
    if isinstance(sink, EmbeddedSink):
        sink.publish()
    if isinstance(sink, LoadingSink):
        sink.finish_loading()


@contextmanager
def quick_folder(otherwise: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")  # noqa: S108  # a private folder is made in it
    if not memory.is_dir() or not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 2 << 30:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="threefold-", dir=memory) as quick:
        yield Path(quick)
