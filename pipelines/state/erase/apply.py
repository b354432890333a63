"""Tombstones carried out: whatever stands under one leaves the collection, in an order that a kill cannot spoil.

1. Files that killed processes left: nobody can say what they hold.
2. All chunk files and manifests are read for documents under a tombstone (`victims.py`).
3. Stores of every generation: delete, compact, publish, drop old snapshots. A store that is down stops the purge here,
   after the others are done: what follows is what a later try needs to find the rows again.
4. Manifests. 5. Lake, as far as no other document has the same text. 6. Chunk files: they are what 3 and 5 go by, so
   they are last; damaged files go with them, because any may hold what has to go. 7. Dead letters, reports, plans of
   repairs.
8. `purged.json`: only now the purges count as carried out. Until then no other run begins.

A kill anywhere before 8 leaves a purge that is waiting; doing all of it again is right from any point. The same happens
after yesterday's state was put back: its `purged.json` does not know today's purges (`tombstones.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from connectors.snapshots.disk import require_free
from m3core.errors import ExitCode, M3Error
from pipelines.state.chunks import keep_rows, read_columns
from pipelines.state.clock import utc_now
from pipelines.state.collection import CollectionState, begin_run, read_collection
from pipelines.state.erase.lake import (
    DroppedRows,
    drop_lake_rows,
    erased_lake_rows,
    read_lake_keys,
    remove_damaged,
)
from pipelines.state.erase.records import erase_records, remove_traces
from pipelines.state.erase.stores import ErasedStore, erase_from_stores
from pipelines.state.erase.target import Target
from pipelines.state.erase.victims import Found, Match, Victims, erased_rows, find_victims
from pipelines.state.files import DamagedError, remove_tree, temporary_folder
from pipelines.state.lease import Lease
from pipelines.state.manifest import Manifest
from pipelines.state.mirror import complete
from pipelines.state.paths import StatePaths
from pipelines.state.runs import RunFolder
from pipelines.state.tombstones import mark_applied, read_applied, read_tombstones


@dataclass(frozen=True)
class Receipt:
    """What was erased, named by tombstones: whoever knows an id can tell that it is meant, and nobody else.

    `run` is None where there was nothing to look through. `damaged_files` could not be read and were removed.
    """

    at: str
    run: int | None
    found: tuple[Found, ...]
    stores: tuple[ErasedStore, ...]
    lake: DroppedRows
    chunk_files: int
    dead_letters: int
    records: int
    damaged_files: int

    @property
    def held(self) -> int:
        """Copies of old snapshots that readers have open: they hold what was erased until they are let go."""
        return sum(store.held for store in self.stores)

    @property
    def exit_code(self) -> ExitCode:
        """4 while a reader's copy is left."""
        return ExitCode.PENDING if self.held else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The receipt; kept in the folder of its run, too."""
        return {
            "at": self.at,
            "run": self.run,
            "erased": [asdict(found) for found in self.found],
            "stores": [asdict(store) for store in self.stores],
            "lake": asdict(self.lake),
            "chunk_files": self.chunk_files,
            "dead_letters": self.dead_letters,
            "records": self.records,
            "damaged_files": self.damaged_files,
            "held_copies": self.held,
        }


def apply_tombstones(target: Target, lease: Lease) -> Receipt:
    """Erase whatever stands under a tombstone, whether a purge waits or not.

    Raises StoreError (a store that is down keeps its rows; the purge waits), StateError (a manifest is damaged),
    DiskFullError, LockedError (the lease was lost).
    """
    paths = target.paths
    tombstones = read_tombstones(paths)
    if read_collection(paths) is None:
        mark_applied(paths, tombstones)
        return _nothing()
    complete(paths.root)
    state = begin_run(paths, lease, erasing=True)
    remove_traces(paths)
    folder = RunFolder.create(paths, state.run, target.config.model_dump(mode="json"))
    try:
        with temporary_folder(paths.runs, "purge") as work:
            receipt = _Erasing(target, lease, state, tombstones.match, work).run()
    except M3Error as error:
        folder.write_report({"command": "purge", "error": {"code": error.code, "message": error.message}})
        raise
    folder.write_receipt(receipt.as_json())
    mark_applied(paths, tombstones)
    rows = {"deleted": sum(store.rows for store in receipt.stores)}
    folder.write_report({"command": "purge", "exit_code": int(receipt.exit_code), "rows": rows})
    return receipt


def apply_waiting(target: Target, lease: Lease) -> Receipt | None:
    """The same, if a purge waits: one that was interrupted, or that this state was restored from before."""
    paths = target.paths
    waiting = read_tombstones(paths).unapplied(read_applied(paths))
    return apply_tombstones(target, lease) if waiting else None


def preview(target: Target, match: Match) -> tuple[list[Found], DroppedRows]:
    """What would be erased: documents and chunks, and rows of the lake. Nothing changes but a temporary folder."""
    paths, state = target.paths, read_collection(target.paths)
    if state is None:
        return [], DroppedRows()
    with temporary_folder(paths.runs, "purge") as work:
        victims = find_victims(paths, _numbers(state), match, work)
        rows = files = 0
        for _, numbers in erased_lake_rows(paths, _numbers(state), victims, read_lake_keys(paths, work)):
            rows, files = rows + len(numbers), files + 1
        return victims.found(), DroppedRows(rows, files)


@dataclass(frozen=True)
class _Erasing:
    """One erasure at work."""

    target: Target
    lease: Lease
    state: CollectionState
    match: Match
    work: Path

    @property
    def paths(self) -> StatePaths:
        return self.target.paths

    def before_each(self) -> None:
        self.lease.check()
        require_free(self.target.storage, self.target.config.ingest.min_free_bytes)

    def run(self) -> Receipt:
        """Steps 2 to 7."""
        self._remove_dropped()
        generations = _numbers(self.state)
        victims = find_victims(self.paths, generations, self.match, self.work)
        found = tuple(victims.found())
        stores, errors = erase_from_stores(self.target, self.state, self.state.run, victims.chunk_ids, self.before_each)
        if errors:
            raise errors[0]
        self._manifests(victims, generations)
        keys = read_lake_keys(self.paths, self.work)
        dropped = erased_lake_rows(self.paths, generations, victims, keys)
        lake = drop_lake_rows(self.paths, dropped, self.before_each)
        chunk_files, unreadable = self._chunk_files(victims)
        damaged = remove_damaged(self.paths, (*victims.damaged, *keys.damaged, *unreadable))
        letters, records = erase_records(self.paths, self.match)
        return Receipt(utc_now(), self.state.run, found, tuple(stores), lake, chunk_files, letters, records, damaged)

    def _remove_dropped(self) -> None:
        """What a drop that was killed left of its generation: nobody reads it."""
        for generation in self.state.generations:
            if generation.status == "dropped":
                remove_tree(self.paths.chunks(generation.number))
                remove_tree(self.paths.manifest(generation.number))

    def _manifests(self, victims: Victims, generations: list[int]) -> None:
        for number in generations:
            if not self.paths.manifest(number).exists():
                continue
            manifest = Manifest(self.paths, number)
            for wave, keys in enumerate(victims.documents(number), start=1):
                self.before_each()
                manifest.append(self.state.run, wave, [], removed=keys)
            manifest.sweep()

    def _chunk_files(self, victims: Victims) -> tuple[int, list[Path]]:
        """Write the files anew; how many, and those whose other columns turn out to be damaged."""
        import pyarrow.compute as pc

        damaged: list[Path] = []
        files = victims.chunk_files()
        for path in files:
            self.before_each()
            try:
                keep_rows(path, pc.is_null(erased_rows(read_columns(path, ["tenant", "doc_id"]), self.match)))
            except DamagedError:
                damaged.append(path)
        return len(files), damaged


def _numbers(state: CollectionState) -> list[int]:
    return [generation.number for generation in state.generations if generation.status != "dropped"]


def _nothing() -> Receipt:
    return Receipt(utc_now(), None, (), (), DroppedRows(), 0, 0, 0, 0)
