"""Private copies for readers: numbered folders, each with a lock that dies with its process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from connectors.snapshots.disk import (
    allocated_bytes,
    copy_tree,
    disk_errors,
    private_folder,
    require_free,
    sync_tree,
    write_text,
)
from m3core.errors import LockedError, StoreError

_TAG = "SNAPSHOT"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WAIT_SECONDS = 120.0


class SnapshotCopy:
    """A reader's private copy of one snapshot, held until `close`. It may be opened, even written to, but for the files
    that it shares with the snapshot."""

    def __init__(self, folder: Path, snapshot: str, lock: FileLock) -> None:
        self.path = folder / "data"
        self.snapshot = snapshot
        self._tag = folder / _TAG
        self._lock = lock

    def spoil(self) -> None:
        """The copy is damaged: nobody is to use it again. Still to be closed."""
        self._tag.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the copy to the next reader; idempotent."""
        self._lock.release()

    def __enter__(self) -> SnapshotCopy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Slots:
    """The private copies beside one chain of snapshots.

    Choosing, copying and removing happen under one lock: a snapshot is never removed while it is being copied.
    """

    def __init__(self, chain: Path, shared: Sequence[str] = ()) -> None:
        self._chain = chain
        self._shared = shared
        self._folder = chain / "slots"

    @contextmanager
    def exclusive(self, wait: float = _WAIT_SECONDS) -> Iterator[None]:
        """Keep other processes from choosing, copying and removing. Raises LockedError after `wait` seconds."""
        private_folder(self._folder)
        lock = FileLock(self._folder / "copying.lock", mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise LockedError(
                f"{self._folder}: another process has been copying a snapshot for {wait:g} s", "try again later"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def take(self, current: Callable[[], str], *, wait: float, min_free: int) -> SnapshotCopy:
        """A copy of the current snapshot: a free one that has it, else a stale free one refreshed, else a new one."""
        with disk_errors(self._folder), self.exclusive(wait):
            snapshot = current()
            free = self._free()
            chosen = next((number for number in free if self._holds(number, snapshot)), min(free))
            for number, lock in free.items():
                if number != chosen:
                    lock.release()
            try:
                self._fill(chosen, snapshot, min_free)
            except BaseException:
                free[chosen].release()
                raise
            return SnapshotCopy(self._slot(chosen), snapshot, free[chosen])

    def prepare(self, snapshot: str, min_free: int) -> None:
        """Leave one free copy of `snapshot` and no stale free ones. The caller holds `exclusive`."""
        free = self._free()
        try:
            ready = next((number for number in free if self._holds(number, snapshot)), min(free))
            for number in free:
                if number != ready:
                    shutil.rmtree(self._slot(number), ignore_errors=True)
            self._fill(ready, snapshot, min_free)
        finally:
            for lock in free.values():
                lock.release()

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Keep readers out of every copy. LockedError if one is held. The caller holds `exclusive`."""
        free = self._free()
        try:
            held = [number for number in self._filled() if number not in free]
            if held:
                raise LockedError(
                    f"{self._folder}: {len(held)} copies are held by readers",
                    "let what searches it search once more, so that it moves on, or end it; then try again",
                )
            yield
        finally:
            for lock in free.values():
                lock.release()

    def drop_stale(self, snapshot: str | None) -> int:
        """Remove free copies of other snapshots; how many others readers hold. The caller holds `exclusive`."""
        free = self._free()
        try:
            stale = [number for number in self._filled() if snapshot is None or not self._holds(number, snapshot)]
            for number in stale:
                if number in free:
                    shutil.rmtree(self._slot(number))
            return sum(number not in free for number in stale)
        finally:
            for lock in free.values():
                lock.release()

    def _filled(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]

    def _free(self) -> dict[int, FileLock]:
        """Locks of the slots that no reader holds, all of them taken; a new slot if there is none."""
        numbers = sorted(int(path.stem) for path in self._folder.glob("*.lock") if path.stem.isdecimal())
        taken: dict[int, FileLock] = {}
        for number in (*numbers, numbers[-1] + 1 if numbers else 1):
            if taken and number not in numbers:
                break
            lock = FileLock(self._folder / f"{number}.lock", mode=0o600, thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            taken[number] = lock
        return taken

    def _holds(self, number: int, snapshot: str) -> bool:
        try:
            return (self._slot(number) / _TAG).read_text("utf-8") == _tag(snapshot)
        except FileNotFoundError:
            return False

    def _fill(self, number: int, snapshot: str, min_free: int) -> None:
        if self._holds(number, snapshot):
            return
        slot, source = self._slot(number), self._chain / snapshot
        if not source.is_dir():
            raise StoreError(f"{source} is missing although it is the current snapshot", "restore it from a backup")
        if slot.exists():
            shutil.rmtree(slot)
        require_free(self._folder, allocated_bytes(source, self._shared) + min_free)
        private_folder(slot)
        copy_tree(source, slot / "data", self._shared)
        if not _boot_id():
            sync_tree(slot)
        write_text(slot / _TAG, _tag(snapshot))

    def _slot(self, number: int) -> Path:
        return self._folder / str(number)


def _tag(snapshot: str) -> str:
    # Copies are not synced, so one from before a power failure must not be reused: the boot is part of the tag.
    return f"{snapshot} {_boot_id()}\n"


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
