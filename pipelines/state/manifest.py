"""The manifest of one generation: one row per document, newest wins by (run, wave).

Which files count is `manifestfiles.py`'s, what a row holds `documents.py`'s. Reading takes the newest row per document
of all deltas and, of the base, the rows of documents that no delta names; DuckDB does it in bounded memory and spills
to disk, so that nothing here grows with the collection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3core.errors import StateError
from m3core.types import Int64Array
from pipelines.state.collection import read_collection
from pipelines.state.documents import (
    COLUMNS,
    DOCUMENTS,
    DocumentKey,
    DocumentRecord,
    documents_schema,
    documents_table,
    read_documents,
    shard_of,
    tombstone,
)
from pipelines.state.files import damaged
from pipelines.state.manifestfiles import DataFile, Listing, ManifestFolder
from pipelines.state.paths import StatePaths
from pipelines.state.tables import dataset, duckdb_connection, write_table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["DocumentKey", "DocumentRecord", "Manifest", "ManifestCounts"]

_COLUMNS = ", ".join(COLUMNS)
_BATCH = 8192
# Base files are split when they get larger, down to one shard each.
_PART_ROWS = 1 << 18
_PENDING = "list_contains(map_values(status), 'pending')"


@dataclass(frozen=True)
class ManifestCounts:
    """Documents and chunks that are there; per store, documents (removed ones too) with something pending."""

    documents: int
    chunks: int
    pending: Mapping[str, int]


class Manifest:
    """The documents of one generation. One writer, under the lease; any number of readers."""

    def __init__(self, paths: StatePaths, generation: int) -> None:
        self._paths = paths
        self._generation = generation
        self._files = ManifestFolder(paths.manifest(generation))

    def append(
        self, run: int, wave: int, records: Sequence[DocumentRecord], removed: Sequence[DocumentKey] = ()
    ) -> None:
        """Commit one wave: durable and visible as a whole, or not at all. Waves must grow within a run. No rows are no
        wave.

        `removed` documents leave no row behind after the next compaction; give a record with `removed` set instead
        where a store has still to delete its chunks. StateError if a document comes twice or a wave is repeated.
        """
        rows = [*records, *(tombstone(key, run) for key in removed)]
        if len({row.key for row in rows}) != len(rows):
            raise StateError(f"a document comes twice in wave {wave} of run {run}")
        if not rows:
            return
        listing = self._listing()
        self._files.check_next(listing, (run, wave))
        if listing.version is None:
            self._files.create()
        name = f"delta-{run:06d}-{wave:05d}.parquet"
        table = documents_table(rows, listing.shards, (run, wave))
        count = write_table(self._files.data / name, DOCUMENTS, table.schema, [table])
        self._files.commit_delta(listing, (run, wave), [self._files.sealed((0, listing.shards - 1), name, count)])

    def compact(self) -> None:
        """Fold the waves into the shards. Killed anywhere, it leaves the old base or the new one."""
        listing = self._listing()
        if not listing.deltas:
            return
        with self._newest(listing) as connection:
            rows = connection.execute("SELECT shard, count(*) FROM newest GROUP BY shard").fetchall()
            added = np.zeros(listing.shards, np.int64)
            added[[shard for shard, _ in rows]] = [count for _, count in rows]
            files = [file for part in _parts(listing) for file in self._fold(connection, part, added, listing)]
        self._files.commit_base(listing, files)

    def records(self, *, removed: bool = False) -> Iterator[DocumentRecord]:
        """Newest record of every document that is there (with `removed`, also of those that are gone but pending),
        by shard, tenant and doc_id, streamed. Not to be mixed with `append` and `compact`."""
        listing = self._listing()
        if not listing.files:
            return
        where = "true" if removed else "NOT removed"
        with self._newest(listing) as connection:
            for part in _parts(listing):
                self._register_base(connection, part)
                for batch in _batches(connection, _part_sql((part.first_shard, part.last_shard), where)):
                    yield from read_documents(batch.to_pylist())

    def find(self, keys: Collection[DocumentKey]) -> dict[DocumentKey, DocumentRecord]:
        """Newest records of the given documents, as far as they are there."""
        import pyarrow as pa

        listing = self._listing()
        wanted = sorted(set(keys))
        if not wanted or not listing.files:
            return {}
        tenants, doc_ids = zip(*wanted, strict=True)
        shards = {shard_of(key, listing.shards) for key in wanted}
        near = [file for file in listing.base if shards & set(range(file.first_shard, file.last_shard + 1))]
        with duckdb_connection(self._files.folder) as connection:
            self._attach(connection, "manifest", near, listing)
            connection.register("wanted", pa.table({"tenant": tenants, "doc_id": doc_ids}))
            sql = f"SELECT {_COLUMNS} FROM manifest SEMI JOIN wanted USING (tenant, doc_id)"  # noqa: S608
            rows = [row for batch in _batches(connection, sql) for row in batch.to_pylist()]
        return {record.key: record for record in read_documents(rows)}

    def shard_of(self, tenant: str, doc_id: str) -> int:
        """Shard of a document."""
        return shard_of((tenant, doc_id), self._listing().shards)

    def counts(self) -> ManifestCounts:
        """Documents, chunks and what is pending."""
        listing = self._listing()
        if not listing.files:
            return ManifestCounts(0, 0, {})
        with duckdb_connection(self._files.folder) as connection:
            self._attach(connection, "manifest", listing.base, listing, removed=True)
            documents, chunks = connection.execute(
                "SELECT count(*), coalesce(sum(len(chunk_ids)), 0) FROM manifest WHERE NOT removed"
            ).fetchall()[0]
            pending = connection.execute(
                "SELECT store, count(*) FROM (SELECT status, unnest(map_keys(status)) AS store FROM manifest)"
                " WHERE status[store] = 'pending' GROUP BY store ORDER BY store"
            ).fetchall()
        return ManifestCounts(documents, int(chunks), dict(pending))

    def attach(self, connection: duckdb.DuckDBPyConnection, view: str = "manifest") -> None:
        """Make the newest records (columns named like DocumentRecord's fields) a view of a DuckDB connection, to join
        a listing with. Valid until the next append or compact. Documents that are gone are not in it."""
        listing = self._listing()
        self._attach(connection, view, listing.base, listing)

    def _listing(self) -> Listing:
        listing = self._files.listing()
        if listing.version is None:
            self._check_never_written()
        return listing

    def _check_never_written(self) -> None:
        state = read_collection(self._paths)
        known = [g for g in state.generations if g.number == self._generation] if state else []
        if known and (known[0].applied_run or known[0].status in ("live", "retired")):
            raise damaged(self._files.folder, f"the manifest of generation {self._generation} is gone")

    def _attach(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: str,
        base: Sequence[DataFile],
        listing: Listing,
        *,
        removed: bool = False,
    ) -> None:
        connection.register(f"{view}_base", _table_of(self._files.verified(base)))
        connection.register(f"{view}_deltas", _table_of(self._files.verified(listing.delta_files)))
        where = "true" if removed else "NOT removed"
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {view} AS "  # noqa: S608
            f"SELECT {_COLUMNS} FROM ({_newest_sql(f'{view}_deltas')}) WHERE {where} UNION ALL "
            f"SELECT {_COLUMNS} FROM {view}_base ANTI JOIN {view}_deltas USING (tenant, doc_id) WHERE {where}"
        )

    @contextmanager
    def _newest(self, listing: Listing) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the table `newest`: the newest row per document of all deltas."""
        with duckdb_connection(self._files.folder) as connection:
            connection.register("deltas", _table_of(self._files.verified(listing.delta_files)))
            connection.execute(f"CREATE TEMP TABLE newest AS {_newest_sql('deltas')}")
            yield connection

    def _register_base(self, connection: duckdb.DuckDBPyConnection, part: DataFile) -> None:
        connection.register("base", _table_of(self._files.verified([part] if part.rows else [])))

    def _fold(
        self, connection: duckdb.DuckDBPyConnection, part: DataFile, added: Int64Array, listing: Listing
    ) -> Iterator[DataFile]:
        """The base files that replace `part`: itself, where nothing was added, or several, where it grew too large."""
        new = int(added[part.first_shard : part.last_shard + 1].sum())
        if not new:
            yield part
            return
        self._register_base(connection, part)
        for shards in _split(part, part.rows + new):
            run, wave = listing.last
            name = f"base-{run:06d}-{wave:05d}-{shards[0]:05d}.parquet"
            sql = _part_sql(shards, f"(NOT removed OR {_PENDING})")
            batches = (batch.cast(documents_schema()) for batch in _batches(connection, sql))
            rows = write_table(self._files.data / name, DOCUMENTS, documents_schema(), batches)
            yield self._files.sealed(shards, name, rows)


def _parts(listing: Listing) -> Sequence[DataFile]:
    """The base files; where there are none yet, one without rows for all shards."""
    return listing.base or [DataFile(0, listing.shards - 1, "", 0, 0, "")]


def _split(part: DataFile, rows: int) -> list[tuple[int, int]]:
    """Ranges of shards (first, last) for `rows` rows; a hash spreads documents evenly over the shards."""
    width = part.last_shard + 1 - part.first_shard
    count = min(width, -(-rows // _PART_ROWS))
    edges = [part.first_shard + width * i // count for i in range(count + 1)]
    return [(edges[i], edges[i + 1] - 1) for i in range(count)]


def _newest_sql(table: str) -> str:
    return (
        f"SELECT {_COLUMNS} FROM {table} "  # noqa: S608
        "QUALIFY row_number() OVER (PARTITION BY tenant, doc_id ORDER BY run DESC, wave DESC) = 1"
    )


def _part_sql(shards: tuple[int, int], where: str) -> str:
    chosen = f"{where} AND shard BETWEEN {shards[0]:d} AND {shards[1]:d}"
    return (
        f"SELECT {_COLUMNS} FROM newest WHERE {chosen} UNION ALL "  # noqa: S608
        f"SELECT {_COLUMNS} FROM base ANTI JOIN newest USING (tenant, doc_id) WHERE {chosen} "
        "ORDER BY shard, tenant, doc_id"
    )


def _batches(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[pa.RecordBatch]:
    yield from connection.sql(sql).to_arrow_reader(_BATCH)


def _table_of(files: Sequence[Path]) -> Any:
    return dataset(files, documents_schema()) if files else documents_schema().empty_table()
