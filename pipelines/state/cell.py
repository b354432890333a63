"""A cell: one small value that is replaced only if it is still what the writer has read (compare-and-swap).

`collection.json`, `lease.json` and a manifest's `manifest.json` are cells. On a local disk the comparison happens under
a momentary flock of `<name>.lock` beside the file; in a bucket it is a conditional put, where the version is the etag.
Whoever works with a cell sees only this protocol.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from m3core.errors import LockedError
from pipelines.state.bucket import Bucket, ChangedError, Version
from pipelines.state.files import make_folder, reporting_write_errors, write_atomic
from pipelines.state.mirror import mirror_of

# The lock is held for a read and a write. Who holds it longer was stopped in between, and may stay so for ever.
_PATIENCE_SECONDS = 60.0
_RETRY_SECONDS = 0.01


class CellConflictError(Exception):
    """The cell holds another version than expected; read it again. Never reaches a user as it is."""


class Cell(Protocol):
    """One value with a version."""

    def read(self) -> tuple[bytes, str] | None:
        """Value and version; None if it was never written."""

    def replace(self, value: bytes, expected: str | None) -> str:
        """Write `value` if the version is still `expected` (None: if there is none); the new version.

        CellConflictError if it is not.
        """


@dataclass(frozen=True)
class FileCell:
    """A cell in a local file. Its version is the hash of its bytes."""

    path: Path

    def read(self) -> tuple[bytes, str] | None:
        """Value and version; needs no lock, because the file is only ever replaced whole."""
        try:
            value = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return value, _version(value)

    def replace(self, value: bytes, expected: str | None) -> str:
        """Write `value` if the version is still `expected`; CellConflictError if not, DiskFullError without room,
        LockedError if another process holds the lock and does not move."""
        make_folder(self.path.parent)
        with self._locked():
            current = self.read()
            if (current and current[1]) != expected:
                raise CellConflictError(str(self.path))
            write_atomic(self.path, value)
        return _version(value)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(self.path.name + ".lock")
        with reporting_write_errors(lock):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, lock)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LockedError(
                    f"{path}: another process holds it and has not moved for {_PATIENCE_SECONDS:g} s",
                    "let it go on or end it (a stopped one has the state T in ps), then run again",
                ) from None
        time.sleep(_RETRY_SECONDS)


@dataclass(frozen=True)
class ObjectCell:
    """A cell in a bucket. Its version is the object's."""

    bucket: Bucket
    key: str

    def read(self) -> tuple[bytes, str] | None:
        """Value and version. BucketError if the bucket does not answer."""
        found = self.bucket.get(self.key)
        return None if found is None else (found[0], str(found[1]))

    def replace(self, value: bytes, expected: str | None) -> str:
        """Write `value` if the version is still `expected`; CellConflictError if not, BucketError.

        A request that is repeated because its answer was lost is a conflict too: equal bytes do not say whose they are.
        """
        try:
            return str(self.bucket.replace(self.key, value, None if expected is None else Version.parse(expected)))
        except ChangedError:
            raise CellConflictError(self.key) from None


def cell_at(path: Path) -> Cell:
    """The cell of a file of the state folder: in the bucket, if the folder is a copy of one."""
    mirror = mirror_of(path)
    return FileCell(path) if mirror is None else ObjectCell(mirror.bucket, mirror.key(path))


def _version(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
