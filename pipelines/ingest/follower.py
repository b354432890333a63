"""One generation brought in line with the one that a run wrote; why and when is `following.py`'s."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Generic, TypeVar

from connectors.protocol import Patch, Sink
from m3core.errors import RefusedError, StateError
from m3core.types import Metadata
from pipelines.ingest import diff
from pipelines.ingest.adopting import Touched, find_touched
from pipelines.ingest.ids import metadata_hash
from pipelines.ingest.listing import Listing
from pipelines.ingest.session import Run, Session
from pipelines.ingest.stores import Standing, Stores, delete_from, for_writing, store_options
from pipelines.ingest.waves import WaveLimits, record_groups
from pipelines.state.batches import in_batches
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.collection import Generation
from pipelines.state.documents import MIXED, DocumentKey, leaving
from pipelines.state.files import make_folder
from pipelines.state.manifest import DocumentRecord, Manifest
from pipelines.state.tables import duckdb_connection

Asked = TypeVar("Asked", bound=Session)

_BATCH = 1000
# Where a source is not listed completely, nobody knows of what it does not name; what the run's generation has not
# either is gone. `again`: gone before, but a store has still to delete its chunks, be it back in the sources or not.
_GONE = """
COPY (
    SELECT tenant, doc_id, false AS again FROM read_parquet($work) WHERE class = 'gone'
    UNION ALL
    SELECT w.tenant, w.doc_id, false FROM read_parquet($work) w ANTI JOIN source s USING (tenant, doc_id)
    WHERE class IN ('kept', 'owed')
    UNION ALL
    SELECT tenant, doc_id, true FROM target WHERE removed AND list_contains(map_values(status), 'pending')
) TO $file (FORMAT parquet)
"""
_JOIN = """
COPY (
    SELECT tenant, doc_id FROM source s JOIN target t USING (tenant, doc_id)
    WHERE s.revision > t.revision AND (s.acl_hash <> t.acl_hash OR s.metadata_hash <> t.metadata_hash)
) TO $file (FORMAT parquet)
"""


@dataclass(frozen=True)
class Left:
    """What left the collection: everything that the `listing` of a run that was not stopped does not have, within
    `limit` (a share of the documents), or else the documents whose keys are in a file."""

    listing: Listing | None = None
    limit: float = 1.0
    keys: diff.KeyFile | None = None

    @property
    def complete(self) -> bool:
        """Whether it also says what earlier runs took away."""
        return self.listing is not None


@dataclass(frozen=True)
class Follower(Generic[Asked]):
    """One generation that follows the one that `run` wrote."""

    run: Run[Asked]
    generation: Generation
    waves: Iterator[int] = field(default_factory=lambda: count(1))

    def bring(self, left: Left) -> None:
        """Delete, patch, publish, and say so in the manifest."""
        make_folder(self.folder)
        self.manifest.begin()
        self.manifest.compact()
        gone = self._gone(left)
        changed = self._changed()
        dead = self.chunk_files.unsettled(self.run.number)
        touched = find_touched(self.chunk_files, dead, self.manifest) if dead else {}
        if touched or any(gone.records(self.manifest, removed=True)) or any(changed.records(self.manifest)):
            with self._open() as stores:
                self._change(gone, changed, touched, stores)
                self._settle(stores)
            self._mark(gone)
            self.manifest.compact()
        for number in (*dead, self.run.number):
            self.chunk_files.settle(number)

    def _change(
        self, gone: diff.KeyFile, changed: diff.KeyFile, touched: Mapping[DocumentKey, Touched], stores: Stores
    ) -> None:
        """Deletes, of which the manifest hears first (see `finalise`), what a run that died left half written, rights
        and metadata.
        """
        for records in gone.records(self.manifest):
            self._append([leaving(one) for one in records])
        known = self.manifest.find(touched)
        beyond = [chunk_id for key, each in touched.items() for chunk_id in each.beyond(known.get(key))]
        for name in list(stores.at_work):
            doomed = chain(_chunks_of(gone.records(self.manifest, removed=True)), beyond)
            delete_from(stores, name, doomed, self.run.before_write)
        for group in _groups([list(known.values())], self.run.request):
            self._renew(group, stores)
        for group in _groups(changed.records(self.manifest), self.run.request):
            self._patch(group, stores)

    @property
    def folder(self) -> Path:
        """Temporary files: keys and hashes."""
        return self.run.work / f"g{self.generation.number:05d}"

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest(self.run.request.paths, self.generation.number)

    @cached_property
    def chunk_files(self) -> ChunkFiles:
        return ChunkFiles(self.run.request.paths, self.generation.number)

    @property
    def patched(self) -> Path:
        """Key and hashes of every document that was patched, a line each."""
        return self.folder / "patched.jsonl"

    def _gone(self, left: Left) -> diff.KeyFile:
        if left.listing is None:
            return left.keys or diff.KeyFile.of((), self.folder / "gone.parquet")
        work = diff.join(left.listing, self.manifest, self.folder, Standing.of(self.generation))
        diff.check_deletes(work, left.limit)
        file = self.folder / "gone.parquet"
        with duckdb_connection(self.folder) as database:
            self.run.manifest.attach(database, "source")
            self.manifest.attach(database, "target", removed=True)
            database.execute(_GONE, {"work": str(work.file), "file": str(file)})
            found: Any = database.execute(
                "SELECT count(*) FROM read_parquet($file) WHERE NOT again", {"file": str(file)}
            ).fetchone()
        if found[0] > left.limit * work.known:
            raise RefusedError(
                f"{found[0]:,} of its {work.known:,} documents are gone (limit {left.limit:.1%})",
                "see m3 generations list; if it is right: m3 ingest --max-delete-fraction 1",
            )
        return diff.KeyFile(file)

    def _changed(self) -> diff.KeyFile:
        file = self.folder / "changed.parquet"
        with duckdb_connection(self.folder) as database:
            self.run.manifest.attach(database, "source")
            self.manifest.attach(database, "target")
            database.execute(_JOIN, {"file": str(file)})
        return diff.KeyFile(file)

    def _open(self) -> Stores:
        building = self.generation.status == "building"
        options = store_options(self.generation, self.run.request)
        writing = for_writing(options, self.run.number, building, self.run.before_write)
        stores = Stores(self.generation, writing, Standing.of(self.generation))
        stores.open_rest()
        return _all_there(stores)

    def _renew(self, records: Sequence[DocumentRecord], stores: Stores) -> None:
        """All chunks of some documents as the manifest has them, where a run died amid changing them."""
        rows = [replace(row, run=self.run.number) for _, own in self._with_rows(records) for row in own]
        self._send(rows, [[*one.key, one.acl_hash, one.metadata_hash] for one in records], stores)

    def _patch(self, records: Sequence[DocumentRecord], stores: Stores) -> None:
        """All chunks of some documents get rights and metadata of the run's generation."""
        news = self._news(records)
        rows: list[ChunkRow] = []
        lines: list[list[str]] = []
        for record, own in self._with_rows(records):
            acl_hash, acl, metadata = news[record.key]
            merged = self._merged(metadata, own[0].chunk.metadata if own else {})
            merged_hash = metadata_hash(merged)
            if (acl_hash, merged_hash) == (record.acl_hash, record.metadata_hash):
                continue
            lines.append([*record.key, acl_hash, merged_hash])
            rows += [
                replace(row, chunk=replace(row.chunk, acl=acl, metadata=merged), run=self.run.number) for row in own
            ]
        self._send(rows, lines, stores)

    def _with_rows(self, records: Sequence[DocumentRecord]) -> Iterator[tuple[DocumentRecord, list[ChunkRow]]]:
        """Every record with its chunk rows. StateError if some are lost."""
        revisions = {chunk_id: record.revision for record in records for chunk_id in record.chunk_ids}
        kept = {row.chunk.id: row for row in self.chunk_files.read(revisions, revisions)}
        for record in records:
            own = [kept[chunk_id] for chunk_id in record.chunk_ids if chunk_id in kept]
            if len(own) != len(record.chunk_ids):
                raise StateError(
                    f"chunks of document {record.doc_id[:80]!a} are not in the state folder", "m3 generations build"
                )
            yield record, own

    def _send(self, rows: Sequence[ChunkRow], lines: Sequence[Sequence[str]], stores: Stores) -> None:
        """Chunk rows first, then the stores, then a note of what the manifest is to say at the end."""
        wave = next(self.waves)
        self.run.before_write()
        if rows:
            self.chunk_files.write(self.run.number, wave, "following", rows)
        patches = [Patch(row.chunk.id, row.chunk.metadata, row.chunk.acl, self.run.number) for row in rows]
        for part in in_batches(patches, _BATCH):
            for name in list(stores.at_work):
                stores.attempt(name, partial(_patch, patches=part))
            _all_there(stores)
        with self.patched.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def _news(self, records: Sequence[DocumentRecord]) -> dict[DocumentKey, tuple[str, tuple[str, ...], Metadata]]:
        """By document: hash of the acl, acl and metadata in the run's generation.

        A document without chunks there has none of them in its chunk files: it is left to nobody.
        """
        found = self.run.manifest.find([record.key for record in records])
        first = {record.chunk_ids[0]: record.revision for record in found.values() if record.chunk_ids}
        paths, number = self.run.request.paths, self.run.generation.number
        rows = {row.chunk.id: row.chunk for row in ChunkFiles(paths, number).read(first, first)}
        news: dict[DocumentKey, tuple[str, tuple[str, ...], Metadata]] = {}
        for key, record in found.items():
            if not record.chunk_ids:
                news[key] = record.acl_hash, (), {}
            elif record.chunk_ids[0] not in rows:
                raise StateError(
                    f"the first chunk of document {record.doc_id[:80]!a} is not in the state folder", "m3 audit"
                )
            else:
                chunk = rows[record.chunk_ids[0]]
                news[key] = record.acl_hash, chunk.acl, chunk.metadata
        return news

    def _merged(self, metadata: Metadata, own: Metadata) -> Metadata:
        """Metadata of the run's generation, but of fields that the two declare differently the follower's own."""
        ours, theirs = self.generation.fields, self.run.generation.fields
        foreign = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
        kept = {name: value for name, value in metadata.items() if name not in foreign}
        return kept | {name: value for name, value in own.items() if name in foreign}

    def _settle(self, stores: Stores) -> None:
        """Make it visible everywhere, durably."""
        self.run.lease.check()
        for sink in stores.embedded.values():
            sink.publish()
        for name in list(stores.servers):
            stores.attempt(name, _flush)
        _all_there(stores)

    def _mark(self, gone: diff.KeyFile) -> None:
        for records in gone.records(self.manifest, removed=True):
            self._append([], [record.key for record in records])
        if not self.patched.exists():
            return
        with self.patched.open(encoding="utf-8") as file:
            for lines in in_batches((json.loads(line) for line in file), _BATCH):
                hashes: Mapping[DocumentKey, tuple[str, str]] = {(one[0], one[1]): (one[2], one[3]) for one in lines}
                found = self.manifest.find(hashes.keys())
                self._append([self._patched(one, *hashes[key]) for key, one in found.items()])

    def _patched(self, record: DocumentRecord, acl_hash: str, metadata_hash: str) -> DocumentRecord:
        stamp = record.stamp if (acl_hash, metadata_hash) == (record.acl_hash, record.metadata_hash) else MIXED
        revision = self.run.number
        return replace(record, acl_hash=acl_hash, metadata_hash=metadata_hash, stamp=stamp, revision=revision)

    def _append(self, records: Sequence[DocumentRecord], removed: Sequence[DocumentKey] = ()) -> None:
        self.run.lease.check()
        self.manifest.append(self.run.number, next(self.waves), records, removed)


def _all_there(stores: Stores) -> Stores:
    """A follower has all of its stores, or is behind."""
    for error in stores.standing.down.values():
        raise error
    return stores


def _chunks_of(batches: Iterable[Collection[DocumentRecord]]) -> Iterator[str]:
    for records in batches:
        for record in records:
            yield from (*record.chunk_ids, *record.obsolete_chunk_ids)


def _groups(batches: Iterable[Sequence[DocumentRecord]], session: Session) -> Iterator[Sequence[DocumentRecord]]:
    """Documents whose chunks fit in memory at once."""
    limits = WaveLimits.of(session.config)
    records = (record for batch in batches for record in batch)
    for group in record_groups(records, limits):
        yield group.records


def _patch(sink: Sink, patches: Sequence[Patch]) -> None:
    sink.patch(patches)


def _flush(sink: Sink) -> None:
    sink.flush()
