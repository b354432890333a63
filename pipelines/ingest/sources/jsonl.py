"""JSON Lines, plain or compressed: one object per line, read as a stream with every size bounded."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar, cast

from m3core.errors import DocumentError
from pipelines.ingest.metadata import MAX_METADATA_BYTES
from pipelines.ingest.sources.protocol import FilePart
from pipelines.ingest.sources.records import RecordSource
from pipelines.ingest.sources.splitting import byte_ranges
from pipelines.ingest.sources.tree import Found

# JSON may spell a code point of 2 or 4 bytes of UTF-8 with 6 or 12.
_ESCAPED = 3
_PART = 1 << 20
_COMPRESSED = (".gz", ".zst")


class JsonLinesSource(RecordSource):
    """See `Source`. Blank lines are passed over; a line that is no document is refused by itself, with its number."""

    extensions: ClassVar[tuple[str, ...]] = (".jsonl", ".jsonl.gz", ".jsonl.zst")
    unit: ClassVar[str] = "line"

    def records(self, path: str) -> Iterator[tuple[int, bytes | None, int]]:
        """Lines; see `RecordSource`."""
        with self.tree.open(path) as file, _decompressed(file, path) as stream:
            for number, (line, size) in enumerate(_lines(stream, self._limit, self.max_total_bytes), start=1):
                yield number, line.removeprefix(codecs.BOM_UTF8) if line and number == 1 else line, size

    def parts(self, file: Found, most: int) -> Iterator[FilePart]:
        """Ranges of bytes, each with the lines that begin in it; a compressed file is one part."""
        if file.path.lower().endswith(_COMPRESSED):
            yield FilePart(file.path, file.size, file.stamp)
            return
        yield from byte_ranges(file.path, file.size, file.stamp, most)

    def part_records(self, part: FilePart) -> Iterator[tuple[str, bytes | None, int]]:
        """Lines that begin in the part, numbered from its first byte; see `RecordSource`."""
        place = f"{part.first}+" if part.first else ""
        if not part.last:
            yield from ((str(number), line, size) for number, line, size in self.records(part.path))
            return
        with self.tree.open(part.path, part.stamp) as file:
            left = part.last - _to_line(file, part.first)
            for number, (line, size) in enumerate(_lines(file, self._limit, self.max_total_bytes), start=1):
                if left <= 0:
                    return
                left -= size
                bom = not part.first and number == 1
                yield f"{place}{number}", line.removeprefix(codecs.BOM_UTF8) if line and bom else line, size

    @property
    def _limit(self) -> int:
        return _ESCAPED * self.rules.max_document_bytes + 2 * MAX_METADATA_BYTES


def _to_line(file: BinaryIO, first: int) -> int:
    """Go to the first line that begins at `first` or behind it; where that is."""
    if first == 0:
        return 0
    file.seek(first - 1)  # a line may begin just at `first`
    while (line := file.readline(_PART)) and not line.endswith(b"\n"):
        pass
    return file.tell()


def _lines(stream: BinaryIO, limit: int, most: int) -> Iterator[tuple[bytes | None, int]]:
    """Each line without its end and its size; None for one over the limit, of which no more is kept in memory.

    A line is not read beyond `most` bytes: with it the source is too large already.
    """
    while line := stream.readline(limit + 1):
        size = len(line)
        if size <= limit or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n"), size
            continue
        while not line.endswith(b"\n") and size <= most and (line := stream.readline(_PART)):
            size += len(line)
        yield None, size


@contextmanager
def _decompressed(file: BinaryIO, path: str) -> Iterator[BinaryIO]:
    name = path.lower()
    if not name.endswith(_COMPRESSED):
        yield file
        return
    try:
        with gzip.GzipFile(fileobj=file) if name.endswith(".gz") else _zstd(file) as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, zlib.error, OSError, ValueError):
        raise DocumentError("the compressed data is damaged or cut off", "fetch the file again") from None


def _zstd(file: BinaryIO) -> io.BufferedReader:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(_Borrowed(file), "zstd"))


class _Borrowed(io.RawIOBase):
    """A file that stays open when the stream that reads from it closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
