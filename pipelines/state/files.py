"""How files of the state folder are written: whole or not at all, durable, and readable by their owner only.

A file is written under a temporary name `.tmp-<name>-<pid>-<random>` in the folder where it belongs, synced, renamed to
its final name (or linked, where an existing file must stay), and the folder is synced. So a final name never shows half
a file, and what a function here has returned survives a power cut. Folders are 0700, files 0600, whatever the umask.
Where the folder is a copy of a bucket (`mirror.py`) the file is uploaded before it gets its name.

JSON files are one object with `kind` (what it is), `format` (an integer) and `checksum`: `sha256:` and the hex digest
of the object without `checksum`, as JSON with sorted keys, no white space and ASCII only. The layout on disk is
indented for people; it does not matter to the checksum. Parquet files are `tables.py`'s.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any

from m3core.disk import disk_full, says_full
from m3core.errors import StateError
from pipelines.state.mirror import mirror_of

TEMPORARY = ".tmp-"
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class DamagedError(StateError):
    """A state file is not what was written: cut, changed, or something else under its name."""

    code = "damaged"


def make_folder(folder: Path) -> None:
    """Create the folder and what is missing above it, each 0700; what is there keeps its mode."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for part in reversed(missing):
        with reporting_write_errors(part):
            try:
                part.mkdir(mode=0o700)
            except FileExistsError:
                continue
            sync_folder(part.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Turn what the system says when a file cannot be written into DiskFullError or StateError naming the path."""
    try:
        yield
    except OSError as error:
        if says_full(error):
            raise disk_full(path) from error
        if error.errno in _NO_ACCESS:
            raise StateError(
                f"{path} cannot be written: {os.strerror(error.errno)}",
                f"give this user the right to write {path.parent}",
            ) from error
        raise


@contextmanager
def atomic_file(path: Path, *, keep_existing: bool = False) -> Iterator[BufferedRandom]:
    """A file to write into (and read back) that gets its name at the end, replacing what was there.

    With `keep_existing` an existing file stays and FileExistsError is raised at the end. If the block raises, nothing
    is left. DiskFullError if there is no room.
    """
    temporary = path.parent / f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
    with reporting_write_errors(path):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if keep_existing and path.exists():
                raise FileExistsError(str(path))
            if (mirror := mirror_of(path)) is not None:
                mirror.upload(path, temporary, create=keep_existing)
            if keep_existing:
                os.link(temporary, path)
            else:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file by `data`."""
    with atomic_file(path) as file:
        file.write(data)


def create_if_absent(path: Path, data: bytes) -> bool:
    """Create the file; False, and nothing changed, if it is there already."""
    try:
        with atomic_file(path, keep_existing=True) as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def remove_files(paths: Iterator[Path] | list[Path]) -> None:
    """Remove files as far as they are there, durably."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        if (mirror := mirror_of(path)) is not None:
            mirror.remove([path])
        folders.add(path.parent)
    for folder in folders:
        # A sweep may have removed it with all that was in it.
        with suppress(FileNotFoundError):
            sync_folder(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder of the state with all that is in it; no error if it is not there."""
    if (mirror := mirror_of(folder)) is not None:
        mirror.remove_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


def move_aside(path: Path) -> None:
    """Rename a damaged file, so that nobody reads it again; FileNotFoundError if another process was faster."""
    aside = path.with_name(path.name + ".damaged")
    if (mirror := mirror_of(path)) is not None:
        mirror.rename(path, aside)
    path.rename(aside)
    sync_folder(path.parent)


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder of its own below `parent`, gone at the end; killed, it is a leftover. DiskFullError, StateError."""
    with reporting_write_errors(parent / TEMPORARY):
        folder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{name}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(root: Path, older_than: float = 3600.0) -> int:
    """Remove temporary files and folders below `root` that a killed process left; how many. Only under the lease.

    What is younger than `older_than` seconds stays: it may be a reader's at work.
    """
    leftovers = temporary_below(root, older_than)
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def temporary_below(root: Path, older_than: float) -> list[Path]:
    """Temporary files and folders below `root` that are older than so many seconds, outermost only.

    What others remove meanwhile is not there.
    """
    limit = time.time() - older_than
    found = []
    for folder, folders, files in os.walk(root):
        left = [name for name in (*folders, *files) if name.startswith(TEMPORARY)]
        folders[:] = [name for name in folders if name not in left]
        for path in (Path(folder, name) for name in left):
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < limit:
                    found.append(path)
    return found


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, no white space, ASCII only: equal values give equal bytes. ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def encode_json(kind: str, version: int, body: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON file of the state folder. ValueError if `body` has a key of the envelope, or a NaN."""
    value = {"kind": kind, "format": version, **body}
    if len(value) != len(body) + 2 or "checksum" in body:
        raise ValueError(f"the body of a {kind} file may not have the keys kind, format and checksum")
    value["checksum"] = _checksum(value)
    return (json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode()


def decode_json(data: bytes, kind: str, version: int, path: Path) -> dict[str, Any]:
    """The body of a JSON file; DamagedError, or StateError if it is of a newer format."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(value, dict) or value.pop("kind", None) != kind:
        raise damaged(path, f"it is no {kind} file")
    found = value.get("format")
    if not isinstance(found, int) or isinstance(found, bool):
        raise damaged(path, "it has no format number")
    check_format(found, version, path)
    checksum = value.pop("checksum", None)
    if checksum != _checksum({**value, "kind": kind}):
        raise damaged(path, "its checksum does not match")
    del value["format"]
    return value


def check_format(found: int, known: int, path: Path) -> None:
    """StateError if a file is of another format than the one that this version reads and writes."""
    if found > known:
        raise StateError(
            f"{path} has format {found}; this version of threefold reads format {known}",
            "install the version that wrote it; state is never changed back",
        )
    if found != known:
        raise StateError(
            f"{path} has the old format {found}; this version of threefold reads format {known}",
            "install the version that wrote it; state is never upgraded silently",
        )


def damaged(path: Path, reason: str) -> DamagedError:
    """The error for a state file that cannot be trusted."""
    return DamagedError(f"{path} is damaged: {reason}", "restore the file from a backup of the state folder")


def write_json(path: Path, kind: str, version: int, body: Mapping[str, Any]) -> None:
    """Replace a checksummed JSON file."""
    write_atomic(path, encode_json(kind, version, body))


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Body of a checksummed JSON file; FileNotFoundError, or StateError as `decode_json`."""
    return decode_json(path.read_bytes(), kind, version, path)


def _checksum(value: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()
