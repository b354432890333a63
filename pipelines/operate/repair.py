"""Carries out the plan of a repair, under the lease, from chunk files and lake: no model is loaded.

- missing, stale, wrong_acl, wrong_vectors: the row is written again into that store, with the revision that the
  manifest names.
- ahead: a store may refuse a row that is older than its own, so the whole document is renewed: its rows get this run's
  revision, in every store and in the manifest.
- extra: deleted from that store; the share of its rows is bounded, as for an ingest.
- lost_row, lost_vectors: nothing here can mend them. The document's record forgets its stamp and waits for every store,
  so that the next ingest reads it again; until then its rows stay as they are.
- corrupt_file: moved aside (`.damaged`), after it was looked at once more.

Killed anywhere it leaves a state that another audit and repair mend: the manifest names a renewed document's rows as
pending for embedded stores until they are published, as an ingest does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from connectors.protocol import EmbeddedSink, Sink
from connectors.snapshots.disk import require_free
from m3core.errors import ExitCode, RefusedError
from m3core.types import Row
from pipelines.operate.collection import Collection
from pipelines.operate.findings import LOST_KINDS, Finding
from pipelines.operate.moving import move_damaged
from pipelines.operate.repair_plan import Plan
from pipelines.operate.stores import stores_of
from pipelines.state.batches import in_batches
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.collection import begin_run
from pipelines.state.documents import DocumentKey, DocumentRecord
from pipelines.state.files import atomic_file
from pipelines.state.lake import Lake, lake_key
from pipelines.state.lease import Lease
from pipelines.state.manifest import Manifest
from pipelines.state.runs import RunFolder

SCHEMA_VERSION = 1
PLAN_FILE = "repair.jsonl"
_BATCH = 256
# What is renewed or read again needs no other mending; rows are there before others are deleted.
_ORDER = ("corrupt_file", *LOST_KINDS, "ahead", "missing", "stale", "wrong_acl", "wrong_vectors", "extra")


@dataclass
class Repaired:
    """What was done: rows by store and action, documents renewed, documents that the next ingest reads again."""

    written: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    renewed: int = 0
    reread: int = 0
    moved: int = 0
    run: int | None = None

    @property
    def exit_code(self) -> ExitCode:
        """4 while something is left for the next ingest, or for a store that refused rows."""
        return ExitCode.PENDING if self.reread or self.refused else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 repair --json` prints; `reread` and `renewed` count documents."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "written": dict(self.written),
            "deleted": dict(self.deleted),
            "refused": dict(self.refused),
            "renewed": self.renewed,
            "reread": self.reread,
            "files_moved": self.moved,
            "exit_code": int(self.exit_code),
        }


def check_deletes(collection: Collection, plan: Plan, limit: float) -> None:
    """RefusedError if the plan takes more than this share of a store's rows out; nothing has changed yet."""
    for store in stores_of(collection):
        extra = plan.counts[store.name, "extra"]
        rows = store.count() if extra else 0
        if extra > limit * rows:
            share = extra / rows if rows else 1.0
            raise RefusedError(
                f"{extra:,} of {rows:,} rows of store {store.name} belong to no document ({share:.1%}, "
                f"limit {limit:.1%})",
                f"see whether the state folder is the right one; if it is: m3 repair --max-delete-fraction "
                f"{min(1.0, share + 0.005):.2f}",
            )


def carry_out(collection: Collection, plan: Plan, lease: Lease) -> Repaired:
    """Do what the plan says. Raises StoreError, DiskFullError, LockedError (the lease was lost)."""
    done = Repaired()
    if not plan.counts:
        return done
    place, paths = collection.place, collection.paths
    # A store that fences takes no row, and no delete, of a run that is older than the row it has.
    done.run = begin_run(paths, lease, mending=True, later_than=plan.latest).run
    folder = RunFolder.create(paths, done.run, place.config.model_dump(mode="json"))
    with plan.path.open("rb") as lines, atomic_file(folder.path / PLAN_FILE) as file:
        shutil.copyfileobj(lines, file)

    def before_request() -> None:
        lease.check()
        require_free(place.storage, place.config.ingest.min_free_bytes)

    with ExitStack() as stack:
        sinks = {
            store.name: stack.enter_context(store.sink(store.options(revision=done.run, before_request=before_request)))
            for store in stores_of(collection)
            if store.name in plan.stores or plan.count("ahead")
        }
        for store in stores_of(collection):
            if store.name in sinks:
                sinks[store.name].ensure(store.options().schema)
        work = _Work(collection, collection.manifest, sinks, before_request, folder.path / "renewed.jsonl", done)
        for store_name, kind in sorted(plan.counts, key=lambda key: (_ORDER.index(key[1]), key[0])):
            for batch in in_batches(plan.of(store_name, kind), _BATCH):
                work.mend(store_name, kind, batch)
        work.publish()
    collection.manifest.compact()
    counts = {"written": sum(done.written.values()), "deleted": sum(done.deleted.values())}
    folder.write_report({"command": "repair", "exit_code": int(done.exit_code), "rows": counts})
    return done


@dataclass
class _Work:
    """One repair at work. Documents that were renewed are noted in a file: there may be many."""

    collection: Collection
    manifest: Manifest
    sinks: Mapping[str, Sink]
    before_request: Callable[[], None]
    renewed: Path
    done: Repaired
    wave: int = 0

    @property
    def run(self) -> int:
        return self.done.run or 0

    @cached_property
    def chunk_files(self) -> ChunkFiles:
        return ChunkFiles(self.collection.paths, self.collection.generation.number)

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.collection.paths, self.collection.generation.encoder_fingerprint)

    def mend(self, store: str, kind: str, batch: list[Finding]) -> None:
        """One batch of findings of one kind."""
        if kind == "corrupt_file":
            self.done.moved += sum(move_damaged(self.collection, finding.id) for finding in batch)
        elif kind in LOST_KINDS:
            self._read_again({(finding.tenant, finding.doc_id) for finding in batch})
        elif kind == "extra":
            self._delete(store, [finding.id for finding in batch])
        elif kind == "ahead":
            self._renew(batch)
        else:
            self._rewrite(store, batch)

    def publish(self) -> None:
        """Make it visible, then tell the manifest that renewed documents are everywhere."""
        for sink in self.sinks.values():
            self.before_request()
            if isinstance(sink, EmbeddedSink):
                sink.publish()
            else:
                sink.flush()
        if not self.renewed.exists():
            return
        with self.renewed.open(encoding="utf-8") as file:
            for batch in in_batches((tuple(json.loads(line)) for line in file), _BATCH):
                records = self.manifest.find(batch).values()
                self._append([replace(one, status=dict.fromkeys(one.status, "done")) for one in records])
        self.renewed.unlink()

    def _rewrite(self, store: str, batch: list[Finding]) -> None:
        records = self._records(batch)
        revisions = {finding.id: finding.revision for finding in batch if _still(finding, records)}
        self._write(store, list(self._rows(revisions).values()))

    def _renew(self, batch: list[Finding]) -> None:
        """Documents some of whose rows are of a later run than the manifest's; one that was renewed is skipped."""
        found = self._records(batch)
        keys = sorted({(one.tenant, one.doc_id) for one in batch if _still(one, found)})
        for part in _some_chunks([found[key] for key in keys]):
            rows = self._rows({chunk_id: one.revision for one in part for chunk_id in one.chunk_ids})
            whole = [one for one in part if all(chunk_id in rows for chunk_id in one.chunk_ids)]
            self._read_again({one.key for one in part if one not in whole})
            renewed = [replace(rows[name], revision=self.run) for one in whole for name in one.chunk_ids]
            self._keep(whole, renewed)
            for store in self.sinks:
                self._write(store, renewed)

    def _keep(self, records: list[DocumentRecord], rows: list[Row]) -> None:
        """Chunk rows and records of renewed documents, before any store has their rows."""
        if not records:
            return
        generation = self.collection.generation
        fingerprint = generation.encoder_fingerprint
        kept = [
            ChunkRow(row.chunk, lake_key(row.chunk.tenant, fingerprint, row.chunk.encoded_text), self.run)
            for row in rows
        ]
        self.chunk_files.write(self.run, self.wave + 1, "repair", kept)
        waiting = dict.fromkeys((binding.name for binding in generation.stores), "pending")
        self._append([replace(one, revision=self.run, status=waiting) for one in records])
        with self.renewed.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(list(one.key)) + "\n" for one in records)
        self.done.renewed += len(records)

    def _read_again(self, keys: Iterable[DocumentKey]) -> None:
        records = [record for record in self.manifest.find(set(keys)).values() if record.stamp]
        waiting = [replace(one, stamp="", status=dict.fromkeys(one.status, "pending")) for one in records]
        self._append(waiting)
        self.done.reread += len(waiting)

    def _records(self, batch: list[Finding]) -> dict[DocumentKey, DocumentRecord]:
        return self.manifest.find({(finding.tenant, finding.doc_id) for finding in batch})

    def _rows(self, revisions: Mapping[str, int]) -> dict[str, Row]:
        """Rows of the chunks as far as chunk files and lake have them; the lake's are read and checked."""
        kept = list(self.chunk_files.read(revisions, revisions))
        places = self.lake.find({row.lake_key for row in kept}, verify=True)
        whole = [row for row in kept if row.lake_key in places]
        vectors = self.lake.read([places[row.lake_key] for row in whole])
        return {row.chunk.id: Row(row.chunk, one, row.run) for row, one in zip(whole, vectors, strict=True)}

    def _write(self, store: str, rows: list[Row]) -> None:
        if not rows:
            return
        self.before_request()
        result = self.sinks[store].write(rows)
        self.done.written[store] = self.done.written.get(store, 0) + result.acknowledged
        for failure in result.failures:
            self.done.refused.setdefault(store, f"{failure.id}: {failure.reason}")

    def _delete(self, store: str, ids: list[str]) -> None:
        self.before_request()
        self.sinks[store].delete(ids)
        self.done.deleted[store] = self.done.deleted.get(store, 0) + len(ids)

    def _append(self, records: list[DocumentRecord]) -> None:
        if records:
            self.wave += 1
            self.before_request()
            self.manifest.append(self.run, self.wave, records)


def _still(finding: Finding, records: Mapping[DocumentKey, DocumentRecord]) -> bool:
    """Whether the manifest still says what the plan took for true."""
    record = records.get((finding.tenant, finding.doc_id))
    return record is not None and record.revision == finding.revision and finding.id in record.chunk_ids


def _some_chunks(records: Iterable[DocumentRecord]) -> Iterator[list[DocumentRecord]]:
    """Records in groups whose chunks fit in memory at once; one that has more is a group of its own."""
    group: list[DocumentRecord] = []
    chunks = 0
    for record in records:
        if group and chunks + len(record.chunk_ids) > _BATCH:
            yield group
            group, chunks = [], 0
        group.append(record)
        chunks += len(record.chunk_ids)
    if group:
        yield group
