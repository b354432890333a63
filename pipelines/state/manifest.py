"""The manifest of one generation: one row per document, newest wins by (run, wave).

Which files count is `manifestfiles.py`'s, what a row holds `documents.py`'s. Everything here works on a part at a time:
the rows of some shards, of the base and of all deltas, about 33,000 of them, of which the newest per document are kept.
So nothing grows with the collection, until one shard of the 256 alone is larger than a part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from m3core.errors import StateError
from pipelines.state.collection import read_collection
from pipelines.state.documents import (
    COLUMNS,
    DOCUMENTS,
    DocumentKey,
    DocumentRecord,
    documents_schema,
    documents_table,
    kept_rows,
    newest,
    pending_by_store,
    read_documents,
    refused_by_store,
    shard_of,
    tombstone,
)
from pipelines.state.files import damaged, make_folder
from pipelines.state.folding import Shards, SortedWaves, rows_between, rows_of, sorted_waves
from pipelines.state.manifestfiles import DataFile, Listing, ManifestFolder, Wave
from pipelines.state.paths import StatePaths
from pipelines.state.tables import write_table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["DocumentKey", "DocumentRecord", "Manifest", "ManifestCounts", "Wave"]

_BATCH = 8192
_PART_ROWS = 1 << 15


@dataclass(frozen=True)
class ManifestCounts:
    """Documents and chunks that are there; per store, documents (removed ones too) with something pending, and chunks
    of documents that it refused."""

    documents: int
    chunks: int
    pending: Mapping[str, int]
    refused: Mapping[str, int] = field(default_factory=dict)

    def rows_of(self, store: str) -> int:
        """How many rows a store has that waits for nothing: none of a document that it refused."""
        return self.chunks - self.refused.get(store, 0)


class Manifest:
    """The documents of one generation. One writer, under the lease; any number of readers."""

    def __init__(self, paths: StatePaths, generation: int) -> None:
        self._paths = paths
        self._generation = generation
        self._files = ManifestFolder(paths.manifest(generation))

    def begin(self) -> None:
        """Write an empty one if none was ever written: what a run has seen whole and is not there is damage, also of a
        generation that has no document."""
        self._listing()
        self._files.create()

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
        make_folder(self._files.data)  # an engine's worker has only what it asked for
        count = write_table(self._files.data / name, DOCUMENTS, table.schema, [table])
        self._files.commit_delta(listing, (run, wave), [self._files.sealed((0, listing.shards - 1), name, count)])

    def last_wave(self) -> Wave:
        """Run and wave of what was committed last; (0, 0) if nothing was."""
        return self._listing().last

    def compact(self, *, only_if_grown: bool = False) -> None:
        """Fold the waves into the shards. Killed anywhere, it leaves the old base or the new one.

        `only_if_grown`: nothing is done while the waves have fewer rows than the base, which would be written anew.
        """
        listing = self._listing()
        waiting = sum(file.rows for file in listing.delta_files)
        if not listing.deltas or (only_if_grown and waiting < sum(file.rows for file in listing.base)):
            return
        deltas = self._files.verified(listing.delta_files, listing)
        with sorted_waves(deltas, self._files.folder, _PART_ROWS) as waves:
            files = [file for base in _base_of(listing) for file in self._fold(base, waves, listing)]
        self._files.commit_base(listing, files)

    def sweep(self) -> None:
        """Compact, then remove the files of writers that had lost their lease: they may name what is gone. Under the
        lease."""
        self.compact()
        self._files.sweep(self._listing())

    def records(self, *, removed: bool = False) -> Iterator[DocumentRecord]:
        """Newest record of every document that is there (with `removed`, also of those that are gone but pending),
        by shard, tenant and doc_id, a part at a time. Not to be mixed with `append` and `compact`."""
        import pyarrow.compute as pc

        for rows in self._parts():
            kept = rows if removed else rows.filter(pc.invert(rows.column("removed")))
            for batch in kept.to_batches(_BATCH):
                yield from read_documents(batch.to_pylist())

    def find(
        self, keys: Collection[DocumentKey], *, removed: bool = False, before: Wave | None = None
    ) -> dict[DocumentKey, DocumentRecord]:
        """Newest records of the given documents, as far as they are there; with `removed`, also of those that are gone
        but that a store has still to delete.

        `before` leaves out that wave and all later ones, as far as they are not compacted: a run that commits wave
        after wave need not look into its own for documents that it has not come to.
        """
        import pyarrow as pa

        wanted = set(keys)
        if not wanted:
            return {}
        listing = self._listing()
        shards = {shard_of(key, listing.shards) for key in wanted}
        near = [file for file in listing.base if shards & set(range(file.first_shard, file.last_shard + 1))]
        deltas = [delta for delta in listing.deltas if before is None or delta.wave < before]
        doc_ids = pa.array(sorted({doc_id for _, doc_id in wanted}), pa.string())
        files = [*near, *(file for delta in deltas for file in delta.files)]
        with self._overtaken(listing):
            rows = newest(rows_of(self._files.verified(files, listing), doc_ids))
        found = (one for one in read_documents(rows.to_pylist()) if one.key in wanted)
        return {one.key: one for one in found if not one.removed or (removed and one.waiting())}

    def shard_of(self, tenant: str, doc_id: str) -> int:
        """Shard of a document."""
        return shard_of((tenant, doc_id), self._listing().shards)

    def counts(self) -> ManifestCounts:
        """Documents, chunks and what is pending."""
        import pyarrow.compute as pc

        documents = chunks = 0
        pending: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        for rows in self._parts():
            there = rows.filter(pc.invert(rows.column("removed")))
            documents += there.num_rows
            chunks += pc.sum(pc.list_value_length(there.column("chunk_ids"))).as_py() or 0
            pending.update(pending_by_store(rows))
            refused.update(refused_by_store(there))
        return ManifestCounts(documents, chunks, dict(sorted(pending.items())), dict(sorted(refused.items())))

    def attach(self, connection: duckdb.DuckDBPyConnection, view: str = "manifest", *, removed: bool = False) -> None:
        """Make the newest records (columns named like DocumentRecord's fields, and `run` and `wave`) a view of a DuckDB
        connection, to join a listing with. Valid until the next append or compact. Documents that are gone are in it
        only with `removed`.

        A writer compacts first: DuckDB sorts all deltas for this, but streams the base.
        """
        listing = self._listing()
        self._view(connection, f"{view}_base", listing.base, listing)
        self._view(connection, f"{view}_deltas", listing.delta_files, listing)
        columns = ", ".join(COLUMNS)
        there = "true" if removed else "NOT removed"
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {view} AS "  # noqa: S608
            f"SELECT {columns} FROM (SELECT * FROM {view}_deltas QUALIFY row_number() OVER "
            f"(PARTITION BY tenant, doc_id ORDER BY run DESC, wave DESC) = 1) WHERE {there} UNION ALL "
            f"SELECT {columns} FROM {view}_base ANTI JOIN {view}_deltas USING (tenant, doc_id) WHERE {there}"
        )

    def _view(
        self, connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[DataFile], listing: Listing
    ) -> None:
        """Files as a view, read by DuckDB itself: the scanner of Arrow reads ahead, some 100 MB of rows."""
        if not files:
            connection.register(name, documents_schema().empty_table())
            return
        paths = ", ".join("'" + str(path).replace("'", "''") + "'" for path in self._files.verified(files, listing))
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM read_parquet([{paths}])")  # noqa: S608

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

    def _parts(self) -> Iterator[pa.Table]:
        """Newest rows, gone documents too, a part at a time."""
        listing = self._listing()
        deltas = self._files.verified(listing.delta_files, listing)
        for base in _base_of(listing):
            for shards in _split(base, listing):
                yield self._part(base, deltas, shards, listing)

    def _fold(self, base: DataFile, waves: SortedWaves, listing: Listing) -> Iterator[DataFile]:
        """The base files that replace `base`: itself, where nothing changed, or several, where it grew too large."""
        if not waves.touch(base.first_shard, base.last_shard):
            yield base
            return
        run, wave = listing.last
        for shards in _split(base, listing):
            rows = kept_rows(self._part(base, waves.files, shards, listing))
            name = f"base-{run:06d}-{wave:05d}-{shards[0]:05d}.parquet"
            write_table(self._files.data / name, DOCUMENTS, rows.schema, [rows])
            yield self._files.sealed(shards, name, rows.num_rows)

    def _part(self, base: DataFile, waves: Sequence[Path], shards: Shards, listing: Listing) -> pa.Table:
        """Newest rows of some shards in the base and in files of waves, gone documents too, in their order."""
        before = self._files.verified([base] if base.name else [], listing)
        with self._overtaken(listing):
            return newest(rows_between([*before, *waves], shards))

    @contextmanager
    def _overtaken(self, listing: Listing) -> Iterator[None]:
        """A file that was there and is gone was folded in by a compaction, or is lost: StateError, DamagedError."""
        try:
            yield
        except FileNotFoundError:
            raise self._files.missing(self._files.data, listing) from None


def _base_of(listing: Listing) -> Sequence[DataFile]:
    """The base files; where there are none yet, one without a name for all shards."""
    return listing.base or [DataFile(0, listing.shards - 1, "", 0, 0, "")]


def _split(base: DataFile, listing: Listing) -> list[Shards]:
    """Ranges of shards (first, last) that hold a part each; a hash spreads documents evenly over the shards."""
    width = base.last_shard + 1 - base.first_shard
    added = sum(file.rows for file in listing.delta_files) * width // listing.shards
    count = max(1, min(width, -(-(base.rows + added) // _PART_ROWS)))
    edges = [base.first_shard + width * i // count for i in range(count + 1)]
    return [(edges[i], edges[i + 1] - 1) for i in range(count)]
