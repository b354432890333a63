"""Parquet: one row is one document. Only the columns that matter are read, in batches of bounded size."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from m3core.errors import DocumentError
from pipelines.ingest.sources.protocol import FilePart
from pipelines.ingest.sources.records import RecordSource
from pipelines.ingest.sources.tree import Found

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 1024
_COLUMNS = ("title", "language", "metadata", "tenant", "acl")
# What a row is replaced by that holds bytes which are no UTF-8: it is refused as such when it is read.
_NO_TEXT = b"\xff"


class ParquetSource(RecordSource):
    """See `Source`. Dates and times become ISO 8601 strings."""

    extensions: ClassVar[tuple[str, ...]] = (".parquet",)
    unit: ClassVar[str] = "row"

    def records(self, path: str) -> Iterator[tuple[int, bytes | None, int]]:
        """Rows of one file; see `RecordSource`."""
        with self._opened(path) as file:
            yield from self._rows(file)

    def parts(self, file: Found, most: int) -> Iterator[FilePart]:
        """Runs of row groups, as large as they are when read; see `RecordSource`."""
        with self._opened(file.path) as opened:
            metadata = self._parquet(opened).metadata
        first = size = 0
        for number in range(metadata.num_row_groups):
            group = int(metadata.row_group(number).total_byte_size)
            if number > first and size + group > most:
                yield FilePart(file.path, size, file.stamp, first, number)
                first, size = number, 0
            size += group
        if metadata.num_row_groups:
            yield FilePart(file.path, size, file.stamp, first, metadata.num_row_groups)

    def part_records(self, part: FilePart) -> Iterator[tuple[str, bytes | None, int]]:
        """Rows of some row groups, numbered in the whole file; see `RecordSource`."""
        with self._opened(part.path, part.stamp) as file:
            for number, payload, size in self._rows(file, range(part.first, part.last)):
                yield str(number), payload, size

    @contextmanager
    def _opened(self, path: str, stamp: str = "") -> Iterator[BinaryIO]:
        import pyarrow as pa

        with self.tree.open(path, stamp) as file:
            try:
                yield file
            except (pa.ArrowException, OSError):
                raise DocumentError("damaged or no Parquet file", "write or fetch the file again") from None

    def _parquet(self, file: BinaryIO) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        # A text column kept as a dictionary cannot expand: a file may say one long text a million times.
        return pq.ParquetFile(file, read_dictionary=[self.rules.text_field], page_checksum_verification=True)

    def _rows(self, file: BinaryIO, groups: range | None = None) -> Iterator[tuple[int, bytes | None, int]]:
        """Rows of some row groups, or of all, numbered in the whole file."""
        parquet = self._parquet(file)
        columns = self._columns(parquet.schema_arrow)
        if _uncompressed(parquet.metadata) > self.max_total_bytes:
            raise self._too_much()
        groups = range(parquet.metadata.num_row_groups) if groups is None else groups
        number = sum(parquet.metadata.row_group(before).num_rows for before in range(groups.start))
        for batch in _batches(parquet, groups, columns):
            arrays = {name: batch.column(name) for name in columns}
            for row in range(batch.num_rows):
                number += 1
                payload, size = self._payload(arrays, row)
                yield number, payload, size

    def _columns(self, schema: pa.Schema) -> list[str]:
        """The columns to read; the id and the text must be there."""
        for name in (self.rules.id_field, self.rules.text_field):
            if schema.get_field_index(name) < 0:
                found = ", ".join(schema.names[:12])
                raise DocumentError(
                    f"no column {name!r} (or two of them); columns: {found}",
                    "set id_field and text_field of the source",
                )
        wanted = {self.rules.id_field, self.rules.text_field, *_COLUMNS, *self.rules.fields}
        return [name for name in schema.names if name in wanted]

    def _payload(self, arrays: Mapping[str, pa.Array], row: int) -> tuple[bytes | None, int]:
        try:
            text = arrays[self.rules.text_field][row].as_py()
            if isinstance(text, str) and len(text) > self.rules.max_document_bytes:
                return None, len(text)
            record = {name: _plain(array[row]) for name, array in arrays.items()}
        except UnicodeDecodeError:
            return _NO_TEXT, 1
        payload = json.dumps(record, ensure_ascii=False, default=_spelled).encode()
        return payload, len(payload)


def _batches(parquet: pq.ParquetFile, groups: range, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Row group by row group: over several at once Arrow keeps what it has read of all, and one dictionary."""
    rows = _batch_rows(parquet.metadata)
    for group in groups:
        yield from parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns)


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Rows per batch: as many as the largest row group says fit into 16 MiB on average."""
    largest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        largest = max(largest, group.total_byte_size // max(1, group.num_rows))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // largest))


def _uncompressed(metadata: pq.FileMetaData) -> int:
    return sum(int(metadata.row_group(number).total_byte_size) for number in range(metadata.num_row_groups))


def _plain(scalar: pa.Scalar) -> Any:
    import pyarrow as pa

    value = scalar.as_py()
    if isinstance(scalar, pa.MapScalar) and value is not None:
        return dict(value)
    return value


def _spelled(value: object) -> object:
    """JSON for what JSON lacks: dates as strings; the rest as an object, which no field may be."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return {type(value).__name__: None}
