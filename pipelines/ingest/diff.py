"""What a run has to do: the listing joined with the manifest, keys only, larger than memory if need be.

DuckDB joins the two Parquet views and spills to the run folder. What comes out is again Parquet in the run folder,
read in batches: no structure here grows with the collection but one 8-byte hash per document that must be read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3core.errors import RefusedError
from m3core.types import Int64Array
from pipelines.ingest.listing import Listing
from pipelines.ingest.stores import Standing
from pipelines.state.batches import in_batches
from pipelines.state.documents import REFUSED
from pipelines.state.manifest import DocumentKey, DocumentRecord, Manifest, Wave
from pipelines.state.tables import duckdb_connection

_BATCH = 4096
_RECORD_BATCH = 20_000
_READ_ROWS = 16_384
_KEY = ("tenant", "doc_id")
_GONE_NAMED = 3

# Every record with the stores that wait for something of it.
_WAITS = """
    SELECT *, list_concat(
        CASE WHEN len(obsolete_chunk_ids) > 0 AND NOT list_contains(map_values(status), 'pending')
             THEN map_keys(status)
             ELSE list_transform(list_filter(map_entries(status), lambda e: e.value = 'pending'), lambda e: e.key)
        END, list_intersect(map_keys(status), $lost::VARCHAR[])) AS stores
    FROM manifest
"""
# One row per place of a document in the sources (nth = 1 is the first), or per manifest record that no source has.
# `serve`: a store that takes part waits for something of the document; `unfinished`: some store does.
_JOIN = f"""
CREATE TEMP TABLE work AS
WITH listed AS (
    SELECT *, row_number() OVER place AS nth, first_value(locator) OVER place AS first_locator
    FROM read_parquet($listing)
    WINDOW place AS (PARTITION BY tenant, doc_id ORDER BY position)
),
waits AS ({_WAITS}),
known AS (
    SELECT tenant, doc_id, source, stamp, len(stores) > 0 AS unfinished,
           list_has_any(stores, $present::VARCHAR[]) AS serve
    FROM waits WHERE NOT removed
)
SELECT coalesce(l.tenant, k.tenant) AS tenant, coalesce(l.doc_id, k.doc_id) AS doc_id,
       coalesce(l.source, k.source) AS source, l.locator, l.first_locator, l.size, l.position,
       k.tenant IS NOT NULL AS known,
       CASE WHEN l.nth > 1 THEN 'duplicate'
            WHEN l.tenant IS NULL AND list_contains($incomplete, k.source) AND k.serve THEN 'owed'
            WHEN l.tenant IS NULL AND list_contains($incomplete, k.source) THEN 'kept'
            WHEN l.tenant IS NULL THEN 'gone'
            WHEN k.tenant IS NULL OR k.stamp <> l.stamp OR k.source <> l.source THEN 'read'
            WHEN k.serve THEN 'pending'
            WHEN k.unfinished THEN 'waiting'
            ELSE 'unchanged' END AS class
FROM listed l FULL JOIN known k ON l.tenant = k.tenant AND l.doc_id = k.doc_id
UNION ALL
SELECT tenant, doc_id, source, NULL, NULL, NULL, NULL, true, 'removed'
FROM waits ANTI JOIN listed USING (tenant, doc_id) WHERE removed AND list_has_any(stores, $present::VARCHAR[])
"""  # noqa: S608
# The same without a listing: what waits for a store that takes part.
_WAITING = f"""
CREATE TEMP TABLE work AS
SELECT tenant, doc_id, CASE WHEN removed THEN 'removed' ELSE 'pending' END AS class
FROM ({_WAITS}) WHERE list_has_any(stores, $present::VARCHAR[])
"""  # noqa: S608


@dataclass(frozen=True)
class Work:
    """The classes of one run. `known` counts the manifest's documents, `listed_bytes` those to read or to restore."""

    file: Path
    counts: Mapping[str, int]
    listed_bytes: int
    known: int
    wanted: Wanted

    def count(self, name: str) -> int:
        """How many documents are of a class.

        duplicate: not the first place of its document. read: new, or its stamp changed. pending: as it was, but a
        store that takes part waits for it. waiting: as it was, but a store that takes no part waits for it. unchanged.
        gone: in no source. kept, owed: not listed, but their source was not listed completely; a store that takes part
        waits for owed ones. removed: gone before, but a store that takes part has still to delete its chunks.
        """
        return self.counts.get(name, 0)

    @property
    def to_do(self) -> bool:
        """Whether any store or the manifest has to change."""
        return any(self.count(name) for name in ("read", "pending", "owed", "gone", "removed"))


class Wanted:
    """Which items of the sources must be read: one 64-bit hash of source and locator per item.

    A collision reads an item more, which changes nothing: what is read is compared with the manifest again.
    """

    def __init__(self, hashes: Int64Array) -> None:
        self._hashes = np.sort(hashes)

    @classmethod
    def of(cls, places: Iterator[list[tuple[str, str]]]) -> Wanted:
        """From batches of (source, locator)."""
        parts = [np.array([place_hash(*place) for place in batch], dtype=np.int64) for batch in places]
        return cls(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._hashes)

    def has(self, source: str, locator: str) -> bool:
        """Whether this item must be read."""
        wanted = place_hash(source, locator)
        index = int(np.searchsorted(self._hashes, wanted))
        return index < len(self._hashes) and int(self._hashes[index]) == wanted


def place_hash(source: str, locator: str) -> int:
    """Signed 64 bits of a place."""
    digest = hashlib.blake2b(f"{source}\0{locator}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def join(listing: Listing, manifest: Manifest, folder: Path, standing: Standing) -> Work:
    """Class of every document. Nothing counts as loaded into a store that has lost its rows."""
    file = folder / "work.parquet"
    with duckdb_connection(folder) as database:
        manifest.attach(database, removed=True)
        parameters = {
            "listing": str(listing.file),
            "incomplete": sorted(listing.incomplete),
            "present": list(standing.present),
            "lost": sorted(standing.lost),
        }
        database.execute(_JOIN, parameters)
        database.table("work").order("position, tenant, doc_id").write_parquet(str(file))
        counts = dict(database.execute("SELECT class, count(*) FROM work GROUP BY class").fetchall())
        size = database.execute("SELECT coalesce(sum(size), 0) FROM work WHERE class IN ('read', 'pending')").fetchone()
        known = database.execute("SELECT count(*) FROM manifest WHERE NOT removed").fetchone()
    wanted = Wanted.of(_select(file, ("source", "locator"), ("read",)))
    return Work(file, counts, int(size[0]) if size else 0, int(known[0]) if known else 0, wanted)


def find_waiting(manifest: Manifest, folder: Path, standing: Standing) -> Work:
    """Documents that a store which takes part waits for, pending or removed; the sources are not asked."""
    file = folder / "work.parquet"
    with duckdb_connection(folder) as database:
        manifest.attach(database, removed=True)
        database.execute(_WAITING, {"present": list(standing.present), "lost": sorted(standing.lost)})
        database.table("work").order("tenant, doc_id").write_parquet(str(file))
        counts = dict(database.execute("SELECT class, count(*) FROM work GROUP BY class").fetchall())
    return Work(file, counts, 0, 0, Wanted.of(iter(())))


def wanted_places(work: Work) -> Iterator[list[tuple[int, int]]]:
    """Position in the listing and bytes of what must be read, in that order."""
    yield from _select(work.file, ("position", "size"), ("read",))


def known_places(work: Work) -> Wanted:
    """Where the documents are read that changed and that the manifest knows."""
    return Wanted.of(_select(work.file, ("source", "locator"), ("read",), known=True))


def duplicates(work: Work) -> Iterator[tuple[str, str, str, str]]:
    """Tenant, doc_id, first and second place of documents that are in the sources more than once."""
    for batch in _select(work.file, ("tenant", "doc_id", "first_locator", "locator"), ("duplicate",)):
        yield from batch


def pending_records(work: Work, manifest: Manifest, before: Wave | None = None) -> Iterator[DocumentRecord]:
    """Records, as they were before that wave, whose rows wait for a store although their source is as it was, or could
    not be listed."""
    for batch in _select(work.file, _KEY, ("pending", "owed")):
        found = manifest.find(batch, before=before)
        yield from (found[key] for key in batch if key in found)


def gone_records(work: Work, manifest: Manifest) -> Iterator[list[DocumentRecord]]:
    """Records of documents that no source has any more, in batches; also when the manifest has been told."""
    for batch in _select(work.file, _KEY, ("gone",)):
        yield list(manifest.find(batch, removed=True).values())


def removed_records(work: Work, manifest: Manifest) -> Iterator[list[DocumentRecord]]:
    """Records of documents that are gone, but that a store which takes part has still to delete, in batches."""
    for batch in _select(work.file, _KEY, ("removed",)):
        yield list(manifest.find(batch, removed=True).values())


def check_deletes(work: Work, limit: float) -> None:
    """Refuse a run whose sources miss more of the collection than `limit` allows; nothing has changed yet."""
    gone = work.count("gone")
    if not gone or gone <= limit * work.known:
        return
    batch = next(_select(work.file, ("doc_id",), ("gone",)))
    named = ", ".join(ascii(row[0])[1:-1][:60] for row in batch[:_GONE_NAMED])
    share = gone / work.known
    raise RefusedError(
        f"{gone:,} of {work.known:,} documents are gone from the source ({share:.1%}, limit {limit:.1%}): "
        f"first {named}",
        f"check the source; if it is right: m3 ingest --max-delete-fraction {_rounded_up(share)}",
    )


@dataclass(frozen=True)
class KeyFile:
    """Keys of documents in a Parquet of the run folder; their records are read in batches, as often as wanted."""

    file: Path

    @classmethod
    def of(cls, batches: Iterable[Sequence[DocumentKey]], file: Path) -> KeyFile:
        """Written from batches of (tenant, doc_id)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("tenant", pa.string()), ("doc_id", pa.string())])
        with pq.ParquetWriter(file, schema) as writer:
            for batch in batches:
                writer.write_table(pa.table([[key[column] for key in batch] for column in (0, 1)], schema=schema))
        return cls(file)

    def records(
        self, manifest: Manifest, *, removed: bool = False, before: Wave | None = None
    ) -> Iterator[list[DocumentRecord]]:
        """Their newest records, as `Manifest.find` has them."""
        for batch in _select(self.file, _KEY, size=_RECORD_BATCH):
            yield list(manifest.find(batch, removed=removed, before=before).values())


def written_by(run: int, manifest: Manifest, folder: Path) -> KeyFile:
    """Documents that this run committed and that still wait for a flip, for deletes, or for a store."""
    file = folder / "written.parquet"
    with duckdb_connection(folder) as database:
        manifest.attach(database)
        waiting = "len(obsolete_chunk_ids) > 0 OR list_contains(map_values(status), 'pending')"
        rows = database.view("manifest").filter(f"run = {run:d}").filter(waiting)
        rows.project("tenant, doc_id").write_parquet(str(file))
    return KeyFile(file)


def refused_documents(manifest: Manifest, folder: Path) -> list[DocumentKey]:
    """Documents of which a store would not take a row: few, or people hear of it."""
    with duckdb_connection(folder) as database:
        manifest.attach(database)
        rows = database.view("manifest").filter(f"list_contains(map_values(status), '{REFUSED}')")
        return [(tenant, doc_id) for tenant, doc_id in rows.project("tenant, doc_id").fetchall()]


def _rounded_up(share: float) -> str:
    return f"{min(1.0, math.ceil(share * 100 - 1e-9) / 100):.2f}"


def _select(
    file: Path, columns: Sequence[str], classes: Collection[str] = (), *, known: bool = False, size: int = _BATCH
) -> Iterator[list[Any]]:
    """Rows of some classes (all, if there are none), in the order of the file, in lists of `size`.

    Read by Arrow: a DuckDB connection takes 20 ms, and the end of a run asks a dozen of such questions.
    """
    yield from in_batches(_rows(file, columns, classes, known=known), size)


def _rows(file: Path, columns: Sequence[str], classes: Collection[str], *, known: bool) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    asked = [*columns, *(["class"] if classes else []), *(["known"] if known else [])]
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(_READ_ROWS, columns=asked):
            kept = batch
            if classes:
                kept = kept.filter(pc.is_in(kept.column("class"), pa.array(sorted(classes), pa.string())))
            if known:
                kept = kept.filter(kept.column("known"))
            yield from zip(*(kept.column(name).to_pylist() for name in columns), strict=True)
