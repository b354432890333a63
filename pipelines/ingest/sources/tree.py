"""What the files of a source lie in, a folder or a bucket: one small protocol, and the rules on names of both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, Protocol

from pipelines.ingest.sources.protocol import SkipKind

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Found:
    """A file: its path below the root with `/`, and what changes when its content does."""

    path: str
    size: int
    stamp: str


@dataclass(frozen=True, slots=True)
class Passed:
    """An entry that is not read, and why."""

    path: str
    kind: SkipKind
    reason: str


class Tree(Protocol):
    """Files below one root, or one file. Picklable; `str` is how the configuration names it.

    `key` is the configuration's key for it. `stamps_return`: whether a stamp can come back when a content does, as an
    ETag can and a change time cannot. Such a file must be read as it was listed: read in another version, it would be
    kept under a stamp that says "unchanged" once the first version is back.
    """

    key: ClassVar[str]
    stamps_return: ClassVar[bool]

    def exists(self) -> bool:
        """Whether it is there, seen from this machine. SourceError if that cannot be asked."""

    def single(self) -> Found | None:
        """The file that it is; None if it is a root of files. SourceError if it is neither."""

    def walk(self, extensions: tuple[str, ...]) -> Iterator[Found | Passed]:
        """Every entry below the root in a fixed order, streaming. Hidden ones and other extensions are passed over.

        Raises SourceError: it is no root of files, or cannot be listed.
        """

    def open(self, path: str, stamp: str = "") -> AbstractContextManager[BinaryIO]:
        """Open one file for reading; with a `stamp` it must still be the file that was listed.

        Raises DocumentError: it is gone, unreadable, or changed; SourceError if the whole tree went out of reach.
        """


def refusal(name: str) -> tuple[SkipKind, str] | None:
    """Why nothing of this name is read, a file or what lies in a folder; None if its name is no reason."""
    if name.startswith("."):
        return SkipKind.HIDDEN, "its name begins with a dot"
    if _UNPRINTABLE.search(name):
        return SkipKind.NAME, "its name has control characters or is not UTF-8; rename it"
    return None


def unsupported(path: str, extensions: tuple[str, ...]) -> Passed | None:
    """A file with another extension; None if it has one of these."""
    if path.lower().endswith(extensions):
        return None
    return Passed(path, SkipKind.UNSUPPORTED, f"its extension is not one of {', '.join(extensions)}")


def printable(path: str) -> str:
    """A path for people: control characters and bytes that are not UTF-8 as escapes."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found.group()) & 0xFFFF:02x}", path)
