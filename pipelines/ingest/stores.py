"""The stores of one run: opened once, when the first row must be written; embedded ones are published at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from connectors.protocol import EmbeddedSink, Sink, StoreOptions
from connectors.registry import is_embedded, open_sink
from connectors.snapshots.chain import SnapshotChain
from pipelines.ingest.session import Request
from pipelines.state import stores
from pipelines.state.batches import in_batches
from pipelines.state.collection import Generation

_DELETE_BATCH = 1000


@dataclass(frozen=True)
class Stores:
    """Sinks of all stores of a generation, by store name."""

    sinks: dict[str, Sink]

    @property
    def embedded(self) -> dict[str, EmbeddedSink]:
        """Those whose changes are visible only after `publish`."""
        return {name: sink for name, sink in self.sinks.items() if isinstance(sink, EmbeddedSink)}

    @property
    def others(self) -> dict[str, Sink]:
        """Those whose writes are visible at once."""
        return {name: sink for name, sink in self.sinks.items() if not isinstance(sink, EmbeddedSink)}

    def initial_status(self) -> dict[str, str]:
        """Status of a document whose rows every store acknowledged: an embedded store has them only after the flip."""
        return {name: "pending" if name in self.embedded else "done" for name in sorted(self.sinks)}

    def discard(self) -> None:
        """Drop what was not published."""
        for sink in self.embedded.values():
            sink.discard()

    def close(self) -> None:
        """Close all of them."""
        for sink in self.sinks.values():
            sink.close()


def store_options(generation: Generation, request: Request) -> dict[str, StoreOptions]:
    """How to open each store of the generation."""
    return {
        binding.name: replace(
            stores.store_options(generation, binding, request.config, base=request.base, storage=request.storage),
            min_free_bytes=request.config.ingest.min_free_bytes,
        )
        for binding in generation.stores
    }


def for_writing(
    options: dict[str, StoreOptions], revision: int, building: bool, before_request: Callable[[], None]
) -> dict[str, StoreOptions]:
    """The same options for the run that writes: its revision fences, and its lease is checked before each request."""
    return {
        name: replace(each, revision=revision, building=building, before_request=before_request)
        for name, each in options.items()
    }


def open_stores(generation: Generation, options: dict[str, StoreOptions]) -> Stores:
    """Open every store and make what is missing. Raises StoreError, ConfigError, MissingExtraError."""
    sinks: dict[str, Sink] = {}
    try:
        for binding in generation.stores:
            sinks[binding.name] = open_sink(binding.kind, options[binding.name])
            sinks[binding.name].ensure(options[binding.name].schema)
    except BaseException:
        Stores(sinks).close()
        raise
    return Stores(sinks)


def delete_all(sinks: Iterable[Sink], ids: Iterable[str], before_each: Callable[[], None]) -> int:
    """Delete chunk ids from each of the sinks, in batches; returns how many ids there were.

    `before_each` runs before every request. Without sinks nothing is read.
    """
    targets = list(sinks)
    deleted = 0
    for batch in in_batches(ids, _DELETE_BATCH) if targets else ():
        for sink in targets:
            before_each()
            sink.delete(batch)
        deleted += len(batch)
    return deleted


def any_lost(generation: Generation, options: dict[str, StoreOptions]) -> bool:
    """Whether a store that earlier runs filled is empty now: its folder was removed, or it lives in memory only."""
    return any(_is_empty(binding.kind, options[binding.name]) for binding in generation.stores)


def _is_empty(kind: str, options: StoreOptions) -> bool:
    if is_embedded(kind):
        return SnapshotChain(options.folder).current() is None
    sink = open_sink(kind, options)
    try:
        sink.ensure(options.schema)
        return sink.count() == 0
    finally:
        sink.close()
