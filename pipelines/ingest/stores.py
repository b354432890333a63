"""The stores of one run: which of them take part, opened once; embedded ones are published at the end.

A server that fails is given up for the rest of the run, whatever the number of waves: its rows stay pending and the
other stores go on. An embedded store that fails is a fault of this machine and ends the run, and so does the failure
of the last store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TypeVar

from connectors.protocol import CollectionSchema, EmbeddedSink, Sink, StoreOptions
from connectors.registry import is_embedded, open_sink
from connectors.snapshots.chain import SnapshotChain
from m3core.errors import StoreError
from pipelines.ingest.session import Session
from pipelines.state import stores
from pipelines.state.batches import in_batches
from pipelines.state.collection import Generation
from pipelines.state.documents import REFUSED
from pipelines.state.manifest import DocumentRecord

T = TypeVar("T")

_DELETE_BATCH = 1000


@dataclass
class Standing:
    """Which stores of a generation take part in a run.

    `lost` have lost their rows, all of them or, filled again by a run that ended on the way, some. `absent` get nothing
    in this run: given up, with the reason, or (None) not asked for.
    """

    names: tuple[str, ...]
    lost: frozenset[str] = frozenset()
    absent: dict[str, StoreError | None] = field(default_factory=dict)

    @classmethod
    def of(cls, generation: Generation, only: Collection[str] | None = None) -> Standing:
        """All stores of the generation, or `only` these."""
        names = tuple(sorted(binding.name for binding in generation.stores))
        return cls(names, absent={name: None for name in names if only is not None and name not in only})

    @property
    def present(self) -> tuple[str, ...]:
        """Stores that take part."""
        return tuple(name for name in self.names if name not in self.absent)

    @property
    def down(self) -> dict[str, StoreError]:
        """Stores that were given up, and why."""
        return {name: error for name, error in self.absent.items() if error is not None}

    def waiting(self, record: DocumentRecord) -> tuple[str, ...]:
        """Stores that wait for something of this document, whether they take part or not."""
        return record.waiting(self.lost)

    def can_serve(self, record: DocumentRecord) -> bool:
        """Whether a store that takes part waits for something of this document."""
        return any(name not in self.absent for name in self.waiting(record))


@dataclass
class Stores:
    """Sinks of the stores of a generation that take part, by store name; opened by `open_servers` and `open_rest`.

    A context manager: it closes them at the end, and an error drops what was not published.
    """

    generation: Generation
    options: dict[str, StoreOptions]
    standing: Standing
    sinks: dict[str, Sink] = field(default_factory=dict)

    def __enter__(self) -> Stores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                self.discard()
        finally:
            self.close()

    @property
    def at_work(self) -> dict[str, Sink]:
        """Those that are open and were not given up."""
        return {name: sink for name, sink in self.sinks.items() if name not in self.standing.absent}

    @property
    def embedded(self) -> dict[str, EmbeddedSink]:
        """Those whose changes are visible only after `publish`."""
        return {name: sink for name, sink in self.at_work.items() if isinstance(sink, EmbeddedSink)}

    @property
    def servers(self) -> dict[str, Sink]:
        """Those whose writes are visible at once."""
        return {name: sink for name, sink in self.at_work.items() if not isinstance(sink, EmbeddedSink)}

    def open_servers(self) -> None:
        """Open what is not embedded and make what is missing; a server that does not answer is given up."""
        self._open(embedded=False)

    def open_rest(self) -> None:
        """Open every store that takes part. Raises StoreError, ConfigError, MissingExtraError."""
        self._open(embedded=False)
        self._open(embedded=True)

    def empty(self) -> set[str]:
        """The stores that have no row: of those that earlier runs filled, a folder or an index was removed, or the
        store lives in memory only."""
        lost = {name for name in self.servers if self.attempt(name, lambda sink: sink.count()) == 0}
        for binding in self.generation.stores:
            if is_embedded(binding.kind) and binding.name not in self.standing.absent:
                lost |= {binding.name} if SnapshotChain(self.options[binding.name].folder).current() is None else set()
        return lost

    def attempt(self, name: str, request: Callable[[Sink], T]) -> T | None:
        """Ask one store that takes part. None if it is a server that failed, which is given up for this run.

        Raises what an embedded store raises, and the StoreError that leaves no store to write to.
        """
        sink = self.sinks[name]
        try:
            return request(sink)
        except StoreError as error:
            if isinstance(sink, EmbeddedSink):
                raise
            self.give_up(name, error)
            return None

    def give_up(self, name: str, error: StoreError) -> None:
        """Leave a store out for the rest of the run. Raises `error` if no other is left."""
        self.standing.absent[name] = error
        if not self.standing.present:
            raise error

    def status_after(self, record: DocumentRecord) -> dict[str, str]:
        """Status of a document whose rows every store at work has acknowledged.

        An embedded store has them only after the flip, and chunks that the document no longer has are deleted after it.
        """
        done = () if record.obsolete_chunk_ids else self.servers
        return {name: "done" if name in done and state != REFUSED else state for name, state in record.status.items()}

    def discard(self) -> None:
        """Drop what was not published."""
        for sink in self.embedded.values():
            sink.discard()

    def close(self) -> None:
        """Close all of them."""
        for sink in self.sinks.values():
            sink.close()

    def _open(self, *, embedded: bool) -> None:
        for binding in self.generation.stores:
            name = binding.name
            if is_embedded(binding.kind) is embedded and name not in self.sinks and name not in self.standing.absent:
                self.sinks[name] = open_sink(binding.kind, self.options[name])
                self.attempt(name, partial(_ensure, schema=self.options[name].schema))


def store_options(generation: Generation, request: Session) -> dict[str, StoreOptions]:
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


def delete_from(stores: Stores, name: str, ids: Iterable[str], before_each: Callable[[], None]) -> int:
    """Delete chunk ids from one store at work, in batches; returns how many it deleted before it was given up, if it
    was. `before_each` runs before every request."""
    deleted = 0
    for batch in in_batches(ids, _DELETE_BATCH):
        before_each()
        stores.attempt(name, partial(_delete, ids=batch))
        if name in stores.standing.absent:
            break
        deleted += len(batch)
    return deleted


def _ensure(sink: Sink, schema: CollectionSchema) -> None:
    sink.ensure(schema)


def _delete(sink: Sink, ids: Sequence[str]) -> None:
    sink.delete(ids)
