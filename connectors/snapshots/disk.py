"""Folders of snapshots on disk: private modes, free space, sparse copies, durability."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from m3core.disk import bytes_on_disk, disk_full, says_full
from m3core.disk import require_free as require_free
from m3core.errors import StoreError

# The kernel copies extents itself (and shares them where the file system can) unless it says one of these.
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
# A file system may know no second name for a file, or allow no more of them.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)
_COPY_BYTES = 8 << 20


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError below `folder` into DiskFullError or StoreError."""
    try:
        yield
    except OSError as error:
        if says_full(error):
            raise disk_full(folder) from error
        raise StoreError(f"{folder}: {error.strerror or error}", "check the folder, its owner and its disk") from error


def private_folder(folder: Path) -> Path:
    """Make `folder` and its missing parents, readable by their owner only."""
    for missing in reversed([parent for parent in (folder, *folder.parents) if not parent.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return folder


def allocated_bytes(folder: Path, shared: Sequence[str] = ()) -> int:
    """What the files below `folder` take on disk, without those whose names are like `shared`.

    Holes take nothing, and a file with several names counts once.
    """
    return bytes_on_disk(path.lstat() for path in folder.rglob("*") if not _like(path.name, shared))


def copy_tree(source: Path, target: Path, shared: Sequence[str] = ()) -> None:
    """Copy regular files and folders, holes as holes, modes 0600 and 0700. `target` must not exist.

    A file with a name like `shared` gets a second name instead, where the file system can: nobody may write to it.
    """
    target.mkdir(mode=0o700)
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        path, place = Path(entry.path), target / entry.name
        if entry.is_dir(follow_symlinks=False):
            copy_tree(path, place, shared)
        elif not entry.is_file(follow_symlinks=False):
            raise _foreign(path)
        elif not (_like(entry.name, shared) and _linked(path, place)):
            _copy_file(path, place)


def sync_tree(folder: Path) -> None:
    """Make everything below `folder` durable, and readable by its owner only. Links and the like are refused."""
    paths = list(folder.rglob("*"))
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise _foreign(path)
        path.chmod(0o700 if path.is_dir() else 0o600)
    # Only now: one commit of the file system's journal then covers all of them.
    for path in (*paths, folder):
        sync_path(path)


def sync_path(path: Path) -> None:
    """fsync one file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write and sync a small file of mode 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write a small file as a whole: a reader sees the old text or the new one, also after a power failure."""
    temporary = path.with_name(f"{path.name}.new")
    write_text(temporary, text)
    temporary.replace(path)
    sync_path(path.parent)


def _like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def _copy_file(source: Path, target: Path) -> None:
    reading = os.open(source, os.O_RDONLY)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            size = os.fstat(reading).st_size
            os.ftruncate(writing, size)
            for start, end in _extents(reading, size):
                _copy_extent(reading, writing, start, end)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Spans of the file that hold data; the whole file where the system cannot tell."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            start = end
            yield start, size
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _copy_extent(reading: int, writing: int, start: int, end: int) -> None:
    at = start
    while at < end:
        copied = _kernel_copy(reading, writing, at, end - at) or _plain_copy(reading, writing, at, end - at)
        if not copied:
            raise OSError(errno.EIO, "a file became shorter while it was copied")
        at += copied


def _kernel_copy(reading: int, writing: int, at: int, count: int) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(reading, writing, count, at, at)
    except OSError as error:
        if error.errno in _NO_KERNEL_COPY:
            return 0
        raise


def _plain_copy(reading: int, writing: int, at: int, count: int) -> int:
    return os.pwrite(writing, os.pread(reading, min(count, _COPY_BYTES), at), at)


def _foreign(path: Path) -> StoreError:
    return StoreError(f"{path} is neither a file nor a folder", "remove it: no store wrote it")
