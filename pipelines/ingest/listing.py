"""The listing of all sources, in a temporary Parquet of the run folder: one row per document, keys and stamps only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3core.errors import DocumentError, SourceError
from pipelines.ingest.sources import SkipKind, Skipped, Source, SourceItem, Split, SplitLimits
from pipelines.state.files import write_atomic
from pipelines.state.runs import DeadLetter
from pipelines.state.tombstones import Tombstones

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_ROWS_PER_WRITE = 8192
_SAY_EVERY = 1000
PURGED = "purged"
_NONE = Tombstones()


@dataclass(frozen=True)
class Listing:
    """What listing found. `letters` are faults that listing itself met; `incomplete` sources may hide documents."""

    file: Path
    items: int
    failed: int
    letters: tuple[DeadLetter, ...]
    skipped: Mapping[str, int]
    incomplete: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """A document as the listing of one split has it: item `number` of it."""

    tenant: str
    doc_id: str
    source: str
    locator: str
    stamp: str
    size: int
    split: int
    number: int


@dataclass(frozen=True)
class Seen:
    """What listing some splits found, besides the places. `listed` and `bytes` are by source."""

    listed: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    letters: tuple[DeadLetter, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    incomplete: frozenset[str] = frozenset()

    @property
    def items(self) -> int:
        """Documents that have a place."""
        return sum(self.listed.values())

    def plus(self, other: Seen) -> Seen:
        """Both together."""
        return Seen(
            dict(Counter(self.listed) + Counter(other.listed)),
            dict(Counter(self.bytes) + Counter(other.bytes)),
            self.failed + other.failed,
            self.letters + other.letters,
            dict(Counter(self.skipped) + Counter(other.skipped)),
            self.incomplete | other.incomplete,
        )


@dataclass
class _Found:
    rows: int = 0
    failed: int = 0
    letters: list[DeadLetter] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    incomplete: set[str] = field(default_factory=set)
    tombstones: Tombstones = _NONE


def list_sources(
    sources: Mapping[str, Source],
    folder: Path,
    say: Callable[[int], None],
    stop: Callable[[], bool],
    tombstones: Tombstones = _NONE,
) -> Listing:
    """List every source into `folder/listing.parquet`, in listing order. `say` is told how many documents so far.

    Documents under a tombstone are passed over and counted as skipped. Raises SourceError.
    """
    import pyarrow.parquet as pq

    file = folder / "listing.parquet"
    found = _Found(tombstones=tombstones)
    with pq.ParquetWriter(file, _schema()) as writer:
        for source in sources.values():
            _list_one(source, found, writer, say, stop)
    return Listing(
        file, found.rows, found.failed, tuple(found.letters), dict(found.skipped), frozenset(found.incomplete)
    )


def list_split(number: int, split: Split, source: Source, tombstones: Tombstones = _NONE) -> tuple[list[Place], Seen]:
    """The documents of one split, as `list_sources` lists those of all; a fault makes the source incomplete."""
    found = _Found(tombstones=tombstones)
    places: list[Place] = []
    for position, entry in enumerate(source.split_items(split)):
        if isinstance(entry, Skipped):
            _note_skipped(entry, found)
            if entry.kind is SkipKind.UNREADABLE:
                found.incomplete.add(source.name)
            continue
        row = _row(source, entry, found)
        if row is not None:
            del row["position"]
            places.append(Place(**row, split=number, number=position))
    size = sum(place.size for place in places)
    seen = Seen({source.name: len(places)}, {source.name: size}, found.failed, tuple(found.letters))
    return places, replace(seen, skipped=dict(found.skipped), incomplete=frozenset(found.incomplete))


def write_places(places: Sequence[Place], file: Path) -> None:
    """The places of one split as part of a listing; positions ascend over the splits. Whole or not at all: an engine
    may run a step twice at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = _schema().names[:-1]
    rows = [
        {**{name: getattr(one, name) for name in names}, "position": (one.split << 32) + one.number} for one in places
    ]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), buffer)
    write_atomic(file, buffer.getvalue().to_pybytes())


def cut_sources(sources: Mapping[str, Source], limits: SplitLimits) -> Iterator[Split | Seen]:
    """The splits of all sources in listing order; last, what dividing them met. Raises SourceError."""
    found = _Found()
    for source in sources.values():
        for entry in source.splits(limits):
            if isinstance(entry, Split):
                yield entry
            else:
                _note_skipped(entry, found)
        if not source.complete:
            found.incomplete.add(source.name)
    yield Seen(
        failed=found.failed,
        letters=tuple(found.letters),
        skipped=dict(found.skipped),
        incomplete=frozenset(found.incomplete),
    )


def _list_one(
    source: Source, found: _Found, writer: pq.ParquetWriter, say: Callable[[int], None], stop: Callable[[], bool]
) -> None:
    rows: list[dict[str, Any]] = []
    for entry in source.items():
        if stop():
            found.incomplete.add(source.name)
            break
        if isinstance(entry, Skipped):
            _note_skipped(entry, found)
            continue
        row = _row(source, entry, found)
        if row is None:
            continue
        rows.append(row)
        found.rows += 1
        if found.rows % _SAY_EVERY == 0:
            say(found.rows)
        if len(rows) >= _ROWS_PER_WRITE:
            _write(writer, rows)
            rows = []
    if rows:
        _write(writer, rows)
    if not source.complete:
        found.incomplete.add(source.name)


def _row(source: Source, item: SourceItem, found: _Found) -> dict[str, Any] | None:
    key = source.identify(item)
    if key is None:
        # Which document this is cannot be known: none of its source may be taken for gone.
        found.letters.append(_nameless_letter(source, item))
        found.failed += 1
        found.incomplete.add(source.name)
        return None
    if found.tombstones.blocks(key):
        found.skipped[PURGED] += 1
        return None
    return {
        "tenant": key[0],
        "doc_id": key[1],
        "source": item.source,
        "locator": item.locator,
        "stamp": item.stamp,
        "size": item.size,
        "position": found.rows,
    }


def _nameless_letter(source: Source, item: SourceItem) -> DeadLetter:
    try:
        source.read(item)
    except DocumentError as error:
        return document_letter("read", item, ("", ""), error)
    raise SourceError(f"{item.locator}: it can be read but not named", "report this: a source contradicts itself")


def document_letter(stage: str, item: SourceItem, key: tuple[str, str], error: DocumentError) -> DeadLetter:
    """The dead letter of a document that cannot be read; `key` is (tenant, doc_id), empty where they are not known."""
    return DeadLetter(
        stage=stage,
        tenant=key[0],
        doc_id=key[1],
        source_path=item.locator,
        error_code=error.code,
        message=str(error),
    )


def _note_skipped(entry: Skipped, found: _Found) -> None:
    if not entry.failed:
        found.skipped[str(entry.kind)] += 1
        return
    found.failed += 1
    found.letters.append(DeadLetter("list", "", "", entry.locator, str(entry.kind), entry.reason))


def _write(writer: pq.ParquetWriter, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    writer.write_table(pa.Table.from_pylist(rows, schema=_schema()))


def _schema() -> Any:
    import pyarrow as pa

    texts = ("tenant", "doc_id", "source", "locator", "stamp")
    return pa.schema([*((name, pa.string()) for name in texts), ("size", pa.int64()), ("position", pa.int64())])


def duplicate_letters(rows: Iterator[tuple[str, str, str, str]]) -> Iterator[DeadLetter]:
    """One dead letter per second place of a document. `rows`: tenant, doc_id, first place, second place."""
    for tenant, doc_id, first, second in rows:
        message = f"document {doc_id!a} is in two places: {first} (used) and {second}"
        yield DeadLetter("list", tenant, doc_id, second, "duplicate", f"{message}. Remedy: give each its own id")
