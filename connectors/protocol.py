"""The small protocol every store speaks: `Sink` writes, `Searcher` answers, `Capabilities` declares.

A row is addressed by its chunk id. Ids are deterministic, so writing a row twice is the same as writing it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from connectors.filters.tree import Filter
from m3core.errors import LockedError, StoreError
from m3core.types import Metadata, QueryVectors, Row, Signal


class StoreTimeoutError(StoreError):
    """A store did not answer within the time that the request had left."""

    code = "timeout"


class RefusedByStoreError(StoreError):
    """A store answered, and will not do this one request however often it is asked; that says nothing of others."""

    code = "store-refused"


class StaleWriterError(LockedError):
    """A row is of a later run than the one that writes: a run that lost its lease must end."""

    code = "stale-writer"


class FieldType(StrEnum):
    """Types of declared metadata fields. Only declared fields can be filtered on."""

    STRING = "string"
    STRINGS = "strings"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"


@dataclass(frozen=True)
class CollectionSchema:
    """What a store must know to create its part of one generation of a collection."""

    collection: str
    generation: int
    signals: frozenset[Signal]
    dense_dim: int
    multi_dim: int
    fields: Mapping[str, FieldType]
    keeps_text: bool
    encoder_fingerprint: str

    @property
    def physical_name(self) -> str:
        """`m3_{collection}_g{n:05d}`: the name in every store, never reused."""
        return f"m3_{self.collection}_g{self.generation:05d}"


@dataclass(frozen=True)
class Connection:
    """How to reach a server. `api_key` and `password` are references (`env:NAME`, `file:PATH`), never the secrets.

    `prefix` stands in front of every physical name, for servers that several installations share. `ca` is a file with
    the certificates to trust instead of the system's.
    """

    url: str = ""
    prefix: str = ""
    api_key: str = ""
    username: str = ""
    password: str = ""
    ca: str = ""


def no_check() -> None:
    """Nothing has to hold before a request."""


@dataclass(frozen=True)
class StoreOptions:
    """How to open one configured store for one generation of one collection.

    `root` is an embedded store's folder for the collection; generations are its subfolders. Writing stops with
    DiskFullError before less than `min_free_bytes` of its disk are left. `connection` is a server's address.

    `revision` is the run that writes (0: no run), for stores that fence; `building` says that its generation was never
    live, so that settings for loading are allowed. `before_request` runs before every request that changes something
    and raises if the run lost its lease.
    """

    name: str
    root: Path
    schema: CollectionSchema
    min_free_bytes: int = 256 << 20
    connection: Connection = Connection()
    revision: int = 0
    building: bool = False
    before_request: Callable[[], None] = field(default=no_check, compare=False)

    @property
    def folder(self) -> Path:
        """An embedded store's folder for the generation."""
        return self.root / f"g{self.schema.generation:05d}"


@dataclass(frozen=True)
class Capabilities:
    """What a store can do, declared: the planner reads this, the conformance suite holds the store to it.

    `signals` are those that it keeps here. `fences`: a row that a later run wrote cannot be overwritten by an earlier
    one. `max_query_tokens`: of a longer lexical query only the heaviest tokens bring candidates; scores are of all.
    `shares_files`: a second process that reads takes little more memory and disk than the first alone.
    """

    signals: frozenset[Signal]
    keeps_text: bool
    fences: bool
    patches_in_place: bool
    exact: bool
    max_vectors_per_row: int
    embedded: bool
    max_query_tokens: int | None = None
    shares_files: bool = False


@dataclass(frozen=True)
class Failure:
    """One row that a store did not take. `kind` is transient, permanent or too-large; no document text in `reason`."""

    id: str
    kind: str
    reason: str


@dataclass(frozen=True)
class WriteResult:
    """Outcome of one write: ids that the store acknowledged, and the failures."""

    acknowledged: int
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Limit:
    """One bound that a server was set up with, and the least of it that we can work with."""

    name: str
    value: int
    least: int


@dataclass(frozen=True)
class StoreFacts:
    """What a store says of itself, for `m3 doctor`; None and nothing where it does not tell.

    `clock` is the server's time in seconds since the epoch; bytes are those of the disk that its rows are on.
    """

    version: str
    clock: float | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Patch:
    """New metadata and acl of one row; vectors and text stay."""

    id: str
    metadata: Metadata
    acl: tuple[str, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Scored:
    """One candidate: chunk id and the raw M3 score of one signal (MaxSim already divided by the query's vectors)."""

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class Payload:
    """The stored row without vectors, as the text store returns it."""

    id: str
    tenant: str
    doc_id: str
    ordinal: int
    span: tuple[int, int]
    title: str
    context: str
    text: str
    language: str
    metadata: Metadata
    acl: tuple[str, ...]
    revision: int


@runtime_checkable
class Sink(Protocol):
    """The writing side of one store, for one generation of one collection. Used by one writer at a time."""

    @property
    def capabilities(self) -> Capabilities: ...

    def ensure(self, schema: CollectionSchema) -> None:
        """Create what is missing; raise StoreError if what is there differs from `schema`."""

    def write(self, rows: Sequence[Row]) -> WriteResult:
        """Upsert rows; returns after the store acknowledged them."""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows by id; unknown ids are no error."""

    def patch(self, patches: Sequence[Patch]) -> None:
        """Replace metadata and acl of existing rows; unknown ids are no error and create nothing."""

    def scan(self) -> Iterator[tuple[str, int]]:
        """(id, revision) of every row, ascending by id."""

    def count(self) -> int:
        """Number of rows, exact."""

    def flush(self) -> None:
        """Make everything acknowledged so far durable."""

    def drop(self) -> None:
        """Remove this generation from the store, with all its rows, for good; what is not there is no error.

        LockedError while a reader in another process holds it open, where the store can know. Interrupted, it can be
        done again. Afterwards the sink can only be closed.
        """

    def close(self) -> None:
        """Release the store; idempotent."""


@runtime_checkable
class EmbeddedSink(Sink, Protocol):
    """A sink whose store is a folder of snapshots: nothing is visible to a reader before `publish`."""

    @property
    def dirty(self) -> bool:
        """Whether there are changes that `publish` would make visible."""

    def publish(self) -> None:
        """Make all changes so far visible at once and durable; without changes it does nothing."""

    def discard(self) -> None:
        """Drop all changes since the last `publish`; the sink goes on from what is published."""


@runtime_checkable
class LoadingSink(Sink, Protocol):
    """A sink that may have set its store up for loading; searching needs `finish_loading` first."""

    def finish_loading(self) -> None:
        """Bring back the settings for searching; idempotent. A generation must not go live before."""


@runtime_checkable
class CompactingSink(Sink, Protocol):
    """A sink that can drop the bytes of deleted rows on request; other stores do so in their own time."""

    def compact(self) -> None:
        """Write anew whatever holds deleted rows, so that no file of the store has a byte of them; with an embedded
        store, of what is published next. Costs about as much as loading those files' rows again."""


@runtime_checkable
class ExaminedSink(Sink, Protocol):
    """A sink that can look without changing anything. Every kind of the registry has one."""

    def facts(self) -> StoreFacts:
        """What the store says of itself. Raises StoreError if it does not answer or refuses us."""

    def verify(self) -> bool:
        """Whether this generation is there; raises StoreError if it differs from the schema. Changes nothing."""


@runtime_checkable
class Searcher(Protocol):
    """The reading side of one store, pinned to one generation. Scores are raw M3 scores."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        """The `limit` best rows that pass `where`, best first (ties by id). Lexical: only rows sharing a token."""

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        """Raw scores of the given ids as far as they exist and pass `where`; an absent row is absent from the answer.
        A row that exists but shares no token scores 0.0 in the lexical signal."""

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        """Payloads of the given ids that exist and pass `where` (only in the store that keeps the text)."""

    async def count(self, where: Filter, timeout: float) -> int:
        """How many rows pass `where`, exact."""

    async def aclose(self) -> None:
        """Release the store; idempotent."""


@runtime_checkable
class WarmSearcher(Searcher, Protocol):
    """A searcher that can make itself ready for many searches: its rows are on this machine's disk."""

    async def warm(self, timeout: float) -> None:
        """Open the store, and bring its rows into memory as far as there is room; idempotent.

        Returns when they are there, or when `timeout` is nearly over: the rest comes beside the searches. Raises
        StoreError.
        """
