"""The snapshots of one embedded folder: `s000001`, `s000002`, ... and `CURRENT`, which names the published one.

A run changes a copy in `working` and publishes it by renaming it and replacing CURRENT. Readers never open a published
snapshot; they take a private copy. A killed run leaves `working` only, which the next run removes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from connectors.snapshots.disk import (
    allocated_bytes,
    copy_tree,
    disk_errors,
    private_folder,
    replace_text,
    require_free,
    sync_path,
    sync_tree,
)
from connectors.snapshots.slots import Slots, SnapshotCopy
from m3core.errors import DiskFullError, LockedError, StateError, StoreError

_NAME = re.compile(r"s[0-9]{6,12}")


class SnapshotChain:
    """Snapshots below `folder` (`.../g00001`). One writer at a time, any number of readers, each in any process.

    `shared` are patterns of the names of files that a store never writes to while it reads: readers' copies share these
    with the snapshot instead of holding them again. A working copy shares nothing.
    """

    def __init__(self, folder: Path, shared: Sequence[str] = ()) -> None:
        self._folder = folder
        self._current = folder / "CURRENT"
        self._working = folder / "working"
        self._slots = Slots(folder, shared)
        self._writer: FileLock | None = None

    def current(self) -> str | None:
        """Name of the published snapshot, None before the first. Raises StateError if CURRENT is damaged."""
        try:
            name = self._current.read_text("utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StateError(f"{self._current} cannot be read: {error}", "restore the folder from a backup") from None
        if not _NAME.fullmatch(name):
            raise StateError(
                f"{self._current} holds {name[:40]!a}, not a snapshot's name", "restore the folder from a backup"
            )
        return name

    def current_folder(self) -> Path | None:
        """Folder of the published snapshot, to look at plain files in it; its data is never opened there."""
        name = self.current()
        return None if name is None else self._folder / name

    def begin(self, min_free: int) -> Path:
        """A working copy of the published snapshot, or an empty folder before the first.

        Removes what a killed run left. Raises LockedError if another process is between begin and publish,
        DiskFullError if less than the copy and `min_free` bytes are free.
        """
        with disk_errors(self._folder):
            private_folder(self._folder)
            self._lock_writer()
            try:
                self._sweep()
                self._copy_current(min_free)
            except BaseException:
                self.discard()
                raise
            return self._working

    def publish(self, min_free: int = 0) -> str:
        """Make the working copy the current snapshot, durably; returns its name. Nobody may have it open.

        Afterwards one free reader's copy of it is there, disk space permitting, and older snapshots are gone.
        """
        if self._writer is None:
            raise StoreError(f"{self._folder}: publish without begin", "begin a working copy first")
        with disk_errors(self._folder):
            name = self._next_name()
            sync_tree(self._working)
            self._working.rename(self._folder / name)
            sync_path(self._folder)
            replace_text(self._current, f"{name}\n")
            self._unlock_writer()
            self._tidy(name, min_free)
        return name

    def discard(self) -> None:
        """Remove the working copy; idempotent, and nothing without `begin`."""
        if self._writer is not None:
            shutil.rmtree(self._working, ignore_errors=True)
            self._unlock_writer()

    def sweep(self) -> int:
        """Remove all but the published snapshot and copies of it; how many other copies readers still have open.

        They go when their readers next look for a new snapshot. LockedError if another process copies all the while.
        """
        if not self._folder.exists():
            return 0
        with disk_errors(self._folder), self._slots.exclusive():
            with suppress(LockedError):  # a run is between begin and publish
                self._lock_writer()
                shutil.rmtree(self._working, ignore_errors=True)
                self._unlock_writer()
            self._prune()
            return self._slots.drop_stale(self.current())

    def drop(self) -> None:
        """Remove the whole folder; what is not there is no error.

        LockedError while a run writes it or a reader holds a copy; nothing was changed then.
        """
        if not self._folder.exists():
            return
        with disk_errors(self._folder):
            self._lock_writer()
            try:
                with self._slots.exclusive(), self._slots.unread():
                    # First, so that a folder that was removed in part has nothing published.
                    self._current.unlink(missing_ok=True)
                    sync_path(self._folder)
                    shutil.rmtree(self._folder)
                    sync_path(self._folder.parent)
            finally:
                self._unlock_writer()

    def open_copy(self, *, wait: float = 120.0, min_free: int = 0) -> SnapshotCopy:
        """A private copy of the published snapshot (a context manager).

        Raises StoreError if nothing was published, LockedError if copies are busy for `wait` seconds, DiskFullError.
        """
        self._published()
        return self._slots.take(self._published, wait=wait, min_free=min_free)

    def newer_copy(self, held: SnapshotCopy, *, wait: float, min_free: int) -> SnapshotCopy | None:
        """A copy of the published snapshot; None if `held` is one, or if copies are busy for `wait` seconds: then the
        run that published still makes one for a reader.

        StoreError if there is no room: what was published may take rights away, so the old snapshot must not answer.
        """
        if held.snapshot == self.current():
            return None
        try:
            return self.open_copy(wait=wait, min_free=min_free)
        except LockedError:
            return None
        except DiskFullError as error:
            raise StoreError(f"what was published cannot be opened: {error.message}", error.remedy) from error

    def _published(self) -> str:
        name = self.current()
        if name is None:
            raise StoreError(f"{self._folder}: nothing has been published yet", "run m3 ingest first")
        return name

    def _lock_writer(self) -> None:
        lock = FileLock(self._folder / "writer.lock", mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(f"{self._folder}: another process is writing", "wait for it to end") from None
        self._writer = lock

    def _unlock_writer(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _copy_current(self, min_free: int) -> None:
        source = self.current_folder()
        if source is None:
            require_free(self._folder, min_free)
            self._working.mkdir(mode=0o700)
        elif not source.is_dir():
            raise StateError(f"{source} is missing although it is the current snapshot", "restore it from a backup")
        else:
            require_free(self._folder, allocated_bytes(source) + min_free)
            copy_tree(source, self._working)

    def _sweep(self) -> None:
        """Remove a killed run's working folder, and snapshots that are not current."""
        if self._working.exists():
            shutil.rmtree(self._working)
        with self._slots.exclusive():
            self._prune()

    def _prune(self) -> None:
        keep = self.current()
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name != keep:
                shutil.rmtree(path)

    def _tidy(self, name: str, min_free: int) -> None:
        try:
            with self._slots.exclusive():
                self._prune()
                self._slots.prepare(name, min_free)
        except (LockedError, DiskFullError):
            # The snapshot is published all the same: the next begin prunes, and a reader that finds no copy makes one
            # or says itself that the disk is full.
            return

    def _next_name(self) -> str:
        current = self.current()
        return f"s{int(current[1:]) + 1 if current else 1:06d}"
