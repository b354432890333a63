"""`m3 gc`: space given back. Nothing that a document, a search, a rollback or a later purge needs is touched.

- Vectors that no document of any generation names, 30 days after they were encoded: a text that comes back within that
  time is not encoded again. Then chunk rows of replaced versions, in files as old.
- Folders of runs that began 90 days ago; not the last one, not one whose dead letters are still to be folded in, and
  not one with the receipt of a purge.
- What killed processes left: temporary files, work folders, snapshots and copies that are not current, damaged files
  that were moved aside 30 days ago.
- Retired generations, all but the one that was live last, and what a drop that was killed or refused left behind.

Killed anywhere, it leaves less to do for the next one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from connectors.snapshots.chain import SnapshotChain
from m3core.errors import ExitCode
from pipelines.operate.audit import work_folder
from pipelines.operate.collection import Collection, Place
from pipelines.operate.dropping import KEPT_SECONDS, DropRequest, drop_generation
from pipelines.operate.gc_rows import Rows, collect_chunk_rows, collect_lake_rows, count_lake_rows
from pipelines.operate.sizes import disk_bytes
from pipelines.operate.stores import stores_of
from pipelines.state.clock import seconds_of
from pipelines.state.collection import CollectionState, Generation, read_collection
from pipelines.state.deadletters import folded_through
from pipelines.state.files import remove_files, remove_tree, temporary_below
from pipelines.state.lease import Lease, acquire_lease
from pipelines.state.paths import StatePaths
from pipelines.state.runs import RunFolder, list_runs
from pipelines.state.tombstones import require_applied

SCHEMA_VERSION = 1
LAKE_DAYS = 30.0
RUN_DAYS = 90.0
_DAY = 86_400.0
_LEFTOVER_SECONDS = 3600.0


@dataclass(frozen=True)
class GcRequest:
    """What is asked. Days since vectors were encoded, and since runs began; `now` is POSIX time."""

    place: Place
    lake_days: float = LAKE_DAYS
    run_days: float = RUN_DAYS
    dry_run: bool = False
    now: float = field(default_factory=time.time)

    @property
    def lake_before(self) -> float:
        """Vectors from before this moment may go."""
        return self.now - self.lake_days * _DAY

    @property
    def runs_before(self) -> float:
        """Runs from before this moment may go."""
        return self.now - self.run_days * _DAY


@dataclass(frozen=True)
class Freed:
    """How many things of a kind, and their bytes; in a dry run, rows by their share of the file."""

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Collected:
    """What was (or would be) given back."""

    generations: Freed = Freed()
    lake_rows: Freed = Freed()
    chunk_rows: Freed = Freed()
    runs: Freed = Freed()
    leftovers: Freed = Freed()
    dry_run: bool = False

    @property
    def bytes(self) -> int:
        """All of them."""
        freed = (self.generations, self.lake_rows, self.chunk_rows, self.runs, self.leftovers)
        return sum(one.bytes for one in freed)

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 gc --json` prints."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "bytes": self.bytes}


def gc(request: GcRequest) -> Collected:
    """Give space back. LockedError while a run is at work, also for a dry run; RefusedError while a purge waits, or if
    chunk rows are lost (`m3 repair`)."""
    place, paths = request.place, request.place.paths
    if not paths.root.exists():
        return Collected(dry_run=request.dry_run)
    with acquire_lease(paths) as lease:
        require_applied(paths)
        generations = _generations(request, read_collection(paths), lease)
        state = read_collection(paths)
        leftovers = _leftovers(request, state, lease)
        runs = _runs(request, lease)
        if state is None or not state.generations:
            return Collected(runs=runs, leftovers=leftovers, dry_run=request.dry_run)
        # What was dropped says so itself; what a store did not let go of keeps its vectors too.
        gone = {number for number, _ in _superfluous(request, state)} if request.dry_run else set()
        collections = tuple(
            Collection(place, state, generation)
            for generation in state.generations
            if generation.status != "dropped" and generation.number not in gone
        )
        with work_folder(place) as folder:
            rows = Rows.read(collections, folder)
            if request.dry_run:
                lake = count_lake_rows(rows.unnamed(request.lake_before))
            else:
                lake = collect_lake_rows(rows, request.lake_before, lease.check)
            chunks = collect_chunk_rows(rows, request.lake_before, lease.check, dry_run=request.dry_run)
    return Collected(
        generations=generations,
        lake_rows=Freed(lake.rows, lake.bytes),
        chunk_rows=Freed(chunks.rows, chunks.bytes),
        runs=runs,
        leftovers=leftovers,
        dry_run=request.dry_run,
    )


def _generations(request: GcRequest, state: CollectionState | None, lease: Lease) -> Freed:
    """Drop what is superfluous; a store that is down keeps its part until the next time."""
    count = size = 0
    for number, left in _superfluous(request, state) if state is not None else ():
        dropped = drop_generation(DropRequest(request.place, number, dry_run=request.dry_run, now=True), lease)
        if dropped.exit_code is ExitCode.OK:
            count, size = count + (left is None), size + dropped.bytes
    return Freed(count, size)


def _superfluous(request: GcRequest, state: CollectionState) -> list[tuple[int, int | None]]:
    """Numbers of retired generations but the one that was live last, with None; of dropped ones of which there is
    something left on disk, with its bytes."""
    retired = sorted((one for one in state.generations if one.status == "retired"), key=lambda one: one.retired)
    old = [one for one in retired[:-1] if request.now - seconds_of(one.retired) >= KEPT_SECONDS]
    left = [(one.number, _bytes_of(request.place, state, one)) for one in state.generations if one.status == "dropped"]
    return [*((one.number, None) for one in old), *((number, size) for number, size in left if size)]


def _bytes_of(place: Place, state: CollectionState, generation: Generation) -> int:
    embedded = [store.options().folder for store in stores_of(Collection(place, state, generation)) if store.embedded]
    folders = [place.paths.chunks(generation.number), place.paths.manifest(generation.number), *embedded]
    return sum(map(disk_bytes, folders))


def _runs(request: GcRequest, lease: Lease) -> Freed:
    paths = request.place.paths
    old = [paths.run(number) for number in _old_runs(paths, request.runs_before)]
    freed = Freed(len(old), sum(disk_bytes(folder) for folder in old))
    if not request.dry_run:
        for folder in old:
            lease.check()
            remove_tree(folder)
    return freed


def _old_runs(paths: StatePaths, before: float) -> Iterator[int]:
    folded = folded_through(paths)
    for number in list_runs(paths)[:-1]:
        folder = RunFolder(paths, number)
        if number <= folded and not (folder.path / "receipt.json").exists() and _began(folder) < before:
            yield number


def _began(folder: RunFolder) -> float:
    try:
        return seconds_of(folder.read_times()[0])
    except FileNotFoundError:  # killed between making its folder and writing into it
        return folder.path.stat().st_mtime


def _leftovers(request: GcRequest, state: CollectionState | None, lease: Lease) -> Freed:
    paths = request.place.paths
    left = [*_temporary(paths), *_damaged(paths, request.lake_before), *_work_folders(paths)]
    freed = Freed(len(left), sum(_size(path) for path in left))
    if request.dry_run:
        return freed
    lease.check()
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove_files([path])
    return Freed(freed.count, freed.bytes + _sweep(request.place, state))


def _temporary(paths: StatePaths) -> Iterable[Path]:
    return temporary_below(paths.root, _LEFTOVER_SECONDS)


def _damaged(paths: StatePaths, before: float) -> Iterable[Path]:
    return [path for path in paths.root.rglob("*.damaged") if path.is_file() and path.stat().st_mtime < before]


def _work_folders(paths: StatePaths) -> Iterable[Path]:
    folders = (paths.run(number) / "work" for number in list_runs(paths))
    return [folder for folder in folders if folder.exists()]


def _size(path: Path) -> int:
    return disk_bytes(path) if path.is_dir() else path.lstat().st_blocks * 512


def _sweep(place: Place, state: CollectionState | None) -> int:
    """Bytes of snapshots and copies that are not current."""
    freed = 0
    for generation in state.generations if state is not None else ():
        for store in stores_of(Collection(place, state, generation)) if state is not None else ():
            if store.embedded and generation.status != "dropped":
                folder = store.options().folder
                before = disk_bytes(folder)
                SnapshotChain(folder).sweep()
                freed += before - disk_bytes(folder)
    return freed
