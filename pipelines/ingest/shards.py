"""The join of listing and manifest, some shards at a time: what `diff` does for all of it, as an engine does it.

Both give every document the same class (tested against each other); `diff.Work.count` says what each class means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.ingest.listing import Place, write_rows
from pipelines.ingest.stores import Standing
from pipelines.state.documents import shard_of
from pipelines.state.manifest import DocumentKey, DocumentRecord

if TYPE_CHECKING:
    import pyarrow as pa

# Classes whose keys are needed again when all is loaded.
_SETTLED_LATER = ("gone", "removed", "duplicate")
_BUCKET_DOCUMENTS = 20_000


@dataclass(frozen=True)
class Counts:
    """Documents by class, and the sums that `diff.Work` has."""

    classes: Mapping[str, int] = field(default_factory=dict)
    listed_bytes: int = 0
    known: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        classes = dict(Counter(self.classes) + Counter(other.classes))
        return Counts(classes, self.listed_bytes + other.listed_bytes, self.known + other.known)


@dataclass
class Joined:
    """What became of some shards. `wanted`: item numbers to read, by split; `waiting`: records that stores wait for;
    `later`: rows for the work file that deletes are read from."""

    classes: Counter[str] = field(default_factory=Counter)
    listed_bytes: int = 0
    known: int = 0
    wanted: dict[int, list[int]] = field(default_factory=dict)
    waiting: list[DocumentRecord] = field(default_factory=list)
    later: list[dict[str, str | None]] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """Its sums."""
        return Counts(dict(self.classes), self.listed_bytes, self.known)

    def add(self, name: str, key: DocumentKey, first: Place | None = None, place: Place | None = None) -> None:
        """Count one document (or second place of one) under its class."""
        self.classes[name] += 1
        if name in _SETTLED_LATER:
            values = (name, *key, first.locator if first else None, place.locator if place else None)
            self.later.append(dict(zip(_COLUMNS, values, strict=True)))


def join_shard(
    listed: Iterable[Place], records: Iterable[DocumentRecord], standing: Standing, incomplete: frozenset[str]
) -> Joined:
    """Class of every document of some shards. `records`: the manifest's, also of what is gone but has still to be
    deleted from a store."""
    joined = Joined()
    known = {record.key: record for record in records}
    joined.known = sum(not record.removed for record in known.values())
    firsts: dict[DocumentKey, Place] = {}
    for place in sorted(listed, key=lambda one: (one.split, one.number)):
        key = place.tenant, place.doc_id
        if key in firsts:
            joined.add("duplicate", key, firsts[key], place)
            continue
        firsts[key] = place
        record = known.get(key)
        name = _listed_class(place, None if record is None or record.removed else record, standing)
        joined.add(name, key)
        if name == "read":
            joined.wanted.setdefault(place.split, []).append(place.number)
        elif name == "pending" and record is not None:
            joined.waiting.append(record)
        joined.listed_bytes += place.size if name in ("read", "pending") else 0
    for record in known.values():
        if record.key not in firsts:
            _unlisted(record, standing, incomplete, joined)
    return joined


def waiting_in_shard(records: Iterable[DocumentRecord], standing: Standing) -> Joined:
    """What stores wait for in some shards, no source being asked: `diff.find_waiting`."""
    joined = Joined()
    for record in records:
        if standing.can_serve(record):
            joined.add("removed" if record.removed else "pending", record.key)
            joined.waiting += [] if record.removed else [record]
    return joined


def _listed_class(place: Place, record: DocumentRecord | None, standing: Standing) -> str:
    if record is None or (record.stamp, record.source) != (place.stamp, place.source):
        return "read"
    if standing.can_serve(record):
        return "pending"
    return "waiting" if standing.waiting(record) else "unchanged"


def _unlisted(record: DocumentRecord, standing: Standing, incomplete: frozenset[str], joined: Joined) -> None:
    serve = standing.can_serve(record)
    if record.removed:
        if serve:
            joined.add("removed", record.key)
    elif record.source not in incomplete:
        joined.add("gone", record.key)
    else:
        joined.add("owed" if serve else "kept", record.key)
        joined.waiting += [record] if serve else []


_COLUMNS = ("class", "tenant", "doc_id", "first_locator", "locator")


def write_later(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The work file of some shards: columns that `diff` reads its keys from."""
    import pyarrow as pa

    write_rows(pa.Table.from_pylist(list(rows), schema=_schema()), file)


def gather_later(folder: Path, file: Path) -> Path:
    """All work files of a folder as one, in the order of their names; one of them is in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, _schema()) as writer:
        for path in sorted(folder.glob("*.parquet")):
            writer.write_table(pq.read_table(path, schema=_schema()))
    return file


@dataclass(frozen=True)
class Buckets:
    """Neighbouring shards that are joined as one: a small collection needs few of them."""

    shards: int
    count: int

    @classmethod
    def of(cls, shards: int, documents: int, parallelism: int) -> Buckets:
        """Enough for the documents of a run, and some for each worker; never more than there are shards."""
        return cls(shards, max(1, min(shards, max(2 * parallelism, -(-documents // _BUCKET_DOCUMENTS)))))

    def bounds(self, bucket: int) -> tuple[int, int]:
        """First and last shard of a bucket."""
        return -(-self.shards * bucket // self.count), -(-self.shards * (bucket + 1) // self.count) - 1

    def of_key(self, key: DocumentKey) -> int:
        """The bucket of a document."""
        return shard_of(key, self.shards) * self.count // self.shards

    def sort(self, places: Iterable[Place]) -> Mapping[int, list[Place]]:
        """Places by the bucket of their document."""
        parts: dict[int, list[Place]] = {}
        for place in places:
            parts.setdefault(self.of_key((place.tenant, place.doc_id)), []).append(place)
        return parts


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in _COLUMNS])
