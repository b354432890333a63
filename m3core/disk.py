"""A disk without room: how the system says so, and the one error for it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from m3core.errors import DiskFullError

# EFBIG is the limit on a file's size that a user or a quota set; to a run it is the same.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Below this share of a disk people are warned; what stops a run is `ingest.min_free_bytes`.
SCARCE = 0.1


def says_full(error: OSError) -> bool:
    """Whether the system means that nothing more can be written."""
    return error.errno in _NO_ROOM


@dataclass(frozen=True)
class DiskUsage:
    """Bytes of a disk. `free` are those that an ordinary user may still write."""

    free: int
    total: int


def disk_usage(path: Path) -> DiskUsage:
    """Of the disk of `path`, which need not be there yet."""
    found = shutil.disk_usage(_existing(path))
    return DiskUsage(found.free, found.total)


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write on the disk of `path`, which need not be there yet."""
    return disk_usage(path).free


def bytes_on_disk(files: Iterable[os.stat_result]) -> int:
    """What files take; holes take nothing, and a file with several names counts once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for file in files:
        if file.st_nlink > 1:
            if (file.st_dev, file.st_ino) in seen:
                continue
            seen.add((file.st_dev, file.st_ino))
        total += file.st_blocks * 512
    return total


def scarce(path: Path) -> str:
    """A line for people if less than SCARCE of the disk of `path` is free; empty otherwise."""
    found = disk_usage(path)
    if found.free >= SCARCE * found.total:
        return ""
    return f"{found.free / found.total:.0%} of the disk of {_existing(path)} is free ({found.free >> 20:,} MiB)"


def disk_full(path: Path) -> DiskFullError:
    """The error for a file or folder that could not be written for lack of room."""
    return _no_room(
        path, f"{path} could not be written: no space left ({free_bytes(path):,} bytes free on its file system)"
    )


def require_free(folder: Path, needed: int) -> None:
    """Raise DiskFullError unless `needed` bytes are free on the disk of `folder`."""
    free = free_bytes(folder)
    if free < needed:
        raise _no_room(folder, f"{folder}: {free >> 20} MiB are free and {-(-needed >> 20)} MiB are needed")


def _no_room(path: Path, message: str) -> DiskFullError:
    return DiskFullError(
        message,
        f"free space on the file system of {_existing(path)}, or move storage.path to a larger one, and run again; "
        "everything committed is safe",
    )


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(part for part in (path, *path.absolute().parents) if part.exists())
