"""Files below a root: walked in a fixed order, opened without following links, never anything but regular files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from m3core.errors import DocumentError, SourceError
from pipelines.ingest.sources.protocol import SkipKind
from pipelines.ingest.sources.tree import Found, Passed, printable, refusal, unsupported

# Opening a pipe must not wait for a writer; nothing is ever inherited by a child.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True)
class LocalTree:
    """A folder or file of this machine. See `Tree`."""

    path: Path

    key: ClassVar[str] = "path"
    stamps_return: ClassVar[bool] = False

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Whether anything is there."""
        return self.path.exists()

    def single(self) -> Found | None:
        """The file, by the name that it has where a link leads; None for a folder."""
        if self.path.is_dir():
            return None
        if not self.path.is_file():  # false for a device or a pipe, which is not opened
            raise SourceError(f"{self.path}: no such file or folder", "correct path of the source")
        file = self.path.resolve()  # the path itself may be a link: whoever wrote the configuration chose it
        status = file.stat()
        return Found(file.name, status.st_size, stamp_of(status))

    def walk(self, extensions: tuple[str, ...]) -> Iterator[Found | Passed]:
        """Folder by folder; see `walk`."""
        return walk(self.path, extensions)

    def open(self, path: str, stamp: str = "") -> AbstractContextManager[BinaryIO]:
        """See `open_below`."""
        is_root = self.path.is_dir() or not self.path.exists()
        return open_below(self.path if is_root else self.path.resolve().parent, path, stamp)


def walk(root: Path, extensions: tuple[str, ...]) -> Iterator[Found | Passed]:
    """Every entry below `root`, folder by folder, names in code point order; only one folder's names are in memory.

    Links are never followed: what a link inside the root points to is read under its own path, and what lies outside
    is none of this source's. Hidden entries and other extensions are passed over.

    Raises:
        SourceError: `root` is no folder or cannot be listed.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder", "correct path of the source")
    folders: list[tuple[str, ...]] = [()]
    waiting: list[Iterator[os.DirEntry[str]]] = [iter(_listed(root))]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            folders.pop()
            continue
        parts = (*folders[-1], entry.name)
        seen = _look(root, parts, entry, extensions)
        if seen is not None:
            yield seen
            continue
        try:
            waiting.append(iter(_listed(Path(entry.path))))
            folders.append(parts)
        except SourceError as error:
            yield Passed("/".join(parts) + "/", SkipKind.UNREADABLE, error.message)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed ({error.strerror})", "give read access to the folder") from None


def _look(
    root: Path, parts: tuple[str, ...], entry: os.DirEntry[str], extensions: tuple[str, ...]
) -> Found | Passed | None:
    """What the entry is; None for a folder to go into."""
    path = "/".join(parts)
    if (refused := refusal(entry.name)) is not None:
        return Passed(printable(path), *refused)
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        return Passed(path, SkipKind.UNREADABLE, f"cannot be looked at ({error.strerror})")
    if stat.S_ISLNK(status.st_mode):
        return Passed(path, SkipKind.LINK, _link_reason(root, Path(entry.path)))
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        return Passed(path, SkipKind.SPECIAL, f"{_special(status.st_mode)}, not a regular file")
    return unsupported(path, extensions) or Found(path, status.st_size, stamp_of(status))


def _link_reason(root: Path, link: Path) -> str:
    try:
        target = link.resolve(strict=True)
    except FileNotFoundError:
        return "a link to nothing"
    except (OSError, RuntimeError):  # a loop is one or the other, by version
        return "a link that leads back to itself"
    inside = root.resolve()
    if target == inside or target in link.parent.resolve().parents or target == link.parent.resolve():
        return "a link to a folder that it lies in"
    if not target.is_relative_to(inside):
        return "a link out of the folder"
    return "a link; its target is read under its own path"


def _special(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a special file")


def stamp_of(status: os.stat_result) -> str:
    """Size, modification and change time: a file whose stamp is the same is taken to be the same."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


@contextmanager
def open_below(root: Path, path: str, stamp: str = "") -> Iterator[BinaryIO]:
    """Open a regular file below the root for reading; no part of `path` may be a link, whoever swaps it meanwhile.
    With a `stamp` it must still be the file that was listed.

    Raises:
        DocumentError: it is gone, unreadable, a link, no regular file, or changed while it was open.
    """
    descriptor = _open(root, path.split("/"))
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise DocumentError("no longer a regular file", "run again")
        if stamp and stamp_of(before) != stamp:
            raise DocumentError("changed since it was listed", "run again")
        try:
            yield file
        except OSError as error:
            raise DocumentError(
                f"cannot be read ({error.strerror or type(error).__name__})", "check the file"
            ) from None
        if stamp_of(os.fstat(file.fileno())) != stamp_of(before):
            raise DocumentError("changed while it was read", "run again")


def _open(root: Path, parts: list[str]) -> int:
    folder = -1
    try:
        folder = os.open(root, _FOLDER)
        for name in parts[:-1]:
            inner = os.open(name, _FOLDER | _FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], _FLAGS, dir_fd=folder)
    except FileNotFoundError:
        raise DocumentError("gone since it was listed", "run again") from None
    except OSError as error:
        raise DocumentError(f"cannot be opened ({error.strerror})", "give read access, and use no links") from None
    finally:
        if folder >= 0:
            os.close(folder)
