"""Objects below a prefix of a bucket as a source's files: listed as a stream, read by ranges in one version.

An object is known by its ETag: what is read must still have the one that was listed (`if_match`). Keys that obstore
cannot name (with `//`, `.` or `..` as a part, ASCII control characters) end the listing: obstore drops all that comes
with them in one answer, and what was dropped would look deleted.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, ClassVar, cast

from m3core.errors import DocumentError, SourceError
from pipelines.ingest.sources.tree import Found, Passed, printable, refusal, unsupported
from pipelines.state.bucket import Bucket, BucketError, ChangedError, ForbiddenError, Version

_BUFFER = 1 << 20
# One request at most; a column of Parquet is read in one call, however large it is.
_REQUEST = 8 << 20


@dataclass(frozen=True)
class BucketTree:
    """An address in a bucket. See `Tree`. One that ends with `/` is a prefix, whatever object has its name."""

    bucket: Bucket

    key: ClassVar[str] = "url"
    stamps_return: ClassVar[bool] = True

    @classmethod
    def at(cls, url: str, key: str) -> BucketTree:
        """Nothing is asked yet; `key` is the configuration's for it. ConfigError, MissingExtraError."""
        return cls(Bucket.open(url, key))

    def __str__(self) -> str:
        return self.bucket.url

    def exists(self) -> bool:
        """Whether the bucket answers; how much it holds is the listing's to tell."""
        if self.single() is None:
            with _asking():
                next(self.bucket.list(""), None)
        return True

    def single(self) -> Found | None:
        """The object of that very name, if there is one."""
        return self._single

    @cached_property
    def _single(self) -> Found | None:
        name = self.bucket.url.partition("://")[2].partition("/")[2].rpartition("/")[2]
        if not name:
            return None
        with _asking():
            seen = self.bucket.look("")
        return seen and Found(name, seen[0], _stamp(*seen))

    def walk(self, extensions: tuple[str, ...]) -> Iterator[Found | Passed]:
        """In the order of the keys. A folder that is passed over is told once, as a local one."""
        closed: str | None = None
        with _asking():
            for key, size, version in self._ascending():
                if closed is not None and key.startswith(closed):
                    continue
                refused = _refused(key)
                if refused is not None:
                    closed = f"{refused[0]}/"
                    yield refused[1]
                    continue
                passed = unsupported(key, extensions)
                if passed is not None:
                    yield passed
                elif size or self.bucket.look(key) is not None:  # an empty one may be a folder's marker: `rows.jsonl/`
                    yield Found(key, size, _stamp(size, version))

    @contextmanager
    def open(self, path: str, stamp: str = "") -> Iterator[BinaryIO]:
        """By requests of at most 8 MiB, all for one version; see `Tree`."""
        single = self.single()
        key = "" if single is not None and path == single.path else path
        size, e_tag = _parsed(stamp) if stamp else self._seen(key)
        when = "since it was listed" if stamp else "while it was read"
        ranges = _Ranges(lambda first, last: self._read(key, first, last, e_tag, when), size)
        with io.BufferedReader(ranges, _BUFFER) as file:
            yield cast(BinaryIO, file)

    def _ascending(self) -> Iterator[tuple[str, int, Version]]:
        """Every object that is no marker of a folder. SourceError if a key does not come after the one before it."""
        before = ""
        for key, size, version in self.bucket.list(""):
            if not key:  # the marker of the prefix
                continue
            # obstore takes the slash off a marker: `a/` is listed as `a`, behind `a!`.
            place = key if key > before else f"{key}/"
            if place <= before:
                raise SourceError(
                    f"{self}: {printable(key)} is listed behind {printable(before)}; keys must ascend by code point",
                    "use a general purpose bucket: directory buckets list in no order",
                )
            before = place
            if place == key:
                yield key, size, version

    def _seen(self, key: str) -> tuple[int, str]:
        with _asking():
            seen = self.bucket.look(key)
        if seen is None:
            raise _gone()
        return seen[0], seen[1].e_tag

    def _read(self, key: str, first: int, last: int, e_tag: str, when: str) -> bytes:
        with _asking():
            try:
                return self.bucket.read(key, first, last, e_tag)
            except FileNotFoundError:
                raise _gone() from None
            except ChangedError:
                raise DocumentError(f"changed {when}", "run again") from None
            except ForbiddenError as error:
                raise DocumentError(f"cannot be opened ({error.message})", "give read access to the object") from None


class _Ranges(io.RawIOBase):
    """An object as a file: `read` gets the bytes from one place to another (not in it)."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        last = min(self._at + min(len(buffer), _REQUEST), self._size)
        if last <= self._at:
            return 0
        data = self._read(self._at, last)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def _asking() -> Iterator[None]:
    """What the bucket's refusals are to a source."""
    try:
        yield
    except BucketError as error:
        raise SourceError(
            printable(error.message), "see that the bucket is there and that the environment's credentials may read it"
        ) from error


def _refused(key: str) -> tuple[str, Passed] | None:
    """The first part of a key whose name is not read: its path, and how it is told."""
    parts = key.split("/")
    for depth, name in enumerate(parts, start=1):
        refused = refusal(name)
        if refused is not None:
            path = "/".join(parts[:depth])
            return path, Passed(printable(path), *refused)
    return None


def _stamp(size: int, version: Version) -> str:
    return f"{size}-{version.e_tag}"


def _parsed(stamp: str) -> tuple[int, str]:
    size, _, e_tag = stamp.partition("-")
    return int(size), e_tag


def _gone() -> DocumentError:
    return DocumentError("gone since it was listed", "run again")
