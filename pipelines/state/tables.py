"""Parquet files of the state folder.

Every file carries `threefold.kind` and `threefold.format` (decimal) in the key-value metadata of its footer, and a
CRC-32 in the header of every page, which every read here verifies; text columns are UTF-8. A file is written under a
temporary name and gets its own at the end (`files.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3core.disk import disk_full
from m3core.errors import M3Error
from pipelines.state.files import atomic_file, check_format, damaged, temporary_folder

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

# What a machine is short of, or a file handle that is stale: it says nothing about the file.
_OF_THE_MACHINE = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE)
_KIND = b"threefold.kind"
_FORMAT = b"threefold.format"


@dataclass(frozen=True)
class TableKind:
    """What a Parquet file holds: its kind, format and how its rows are grouped and packed."""

    kind: str
    format: int
    rows_per_group: int = 16_384
    options: Mapping[str, Any] = field(default_factory=lambda: {"compression": "zstd"})


def write_table(
    path: Path, kind: TableKind, schema: pa.Schema, batches: Iterable[pa.Table | pa.RecordBatch], **extra: str
) -> int:
    """Replace the file by these rows; `extra` goes into the metadata of the footer. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    with atomic_file(path) as file:
        sink = pa.PythonFile(file, mode="w")
        with pq.ParquetWriter(sink, with_kind(schema, kind, extra), write_page_checksum=True, **kind.options) as writer:
            for batch in batches:
                table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
                writer.write_table(table, row_group_size=kind.rows_per_group)
                rows += table.num_rows
    return rows


def with_kind(schema: pa.Schema, kind: TableKind, extra: Mapping[str, str]) -> pa.Schema:
    """The schema with kind, format and `extra` in its metadata."""
    own = {_KIND: kind.kind.encode(), _FORMAT: str(kind.format).encode()}
    return schema.with_metadata({**own, **{name.encode(): value.encode() for name, value in extra.items()}})


def open_table(path: Path, kind: TableKind, schema: pa.Schema | None = None) -> pq.ParquetFile:
    """An open file with the columns of `schema`, memory-mapped, its pages verified when they are read inside `reading`.

    FileNotFoundError if it is not there; DamagedError, or StateError if it is of a newer format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        raise damaged(path, "it is empty")
    mapped = pa.memory_map(str(path))
    with reading(path):
        file = pq.ParquetFile(mapped, page_checksum_verification=True)
        metadata = file.schema_arrow.metadata or {}
        if metadata.get(_KIND) != kind.kind.encode():
            raise damaged(path, f"it is no {kind.kind} file")
        check_format(int(metadata[_FORMAT]), kind.format, path)
        if schema is not None and not file.schema_arrow.equals(schema):
            raise damaged(path, f"its columns are not those of a {kind.kind} file")
        return file


def extra_metadata(file: pq.ParquetFile) -> dict[str, str]:
    """Metadata of the footer besides kind and format."""
    found = file.schema_arrow.metadata or {}
    return {name.decode(): value.decode() for name, value in found.items() if name not in (_KIND, _FORMAT)}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a Parquet reader says about a file that is open already into DamagedError: it is about the content."""
    import pyarrow as pa

    try:
        yield
    except (M3Error, MemoryError):
        raise  # pa.ArrowMemoryError is both: too little memory says nothing about a file
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise
        raise damaged(path, " ".join(str(error).split())[:200]) from error


def dataset(files: Sequence[Path], schema: pa.Schema) -> ds.Dataset:
    """Several files as one streamed table whose pages are verified; DuckDB joins it without loading it."""
    import pyarrow.dataset as ds

    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = ds.ParquetFileFormat(default_fragment_scan_options=options)
    return ds.dataset([str(file) for file in files], schema=schema, format=form)


@contextmanager
def duckdb_connection(folder: Path, memory: str = "256MB") -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database of bounded memory that spills into a private folder below `folder`, removed at the end.

    DiskFullError if there is no room to spill.
    """
    import duckdb
    import pyarrow as pa

    pa.default_memory_pool().release_unused()  # what a pass over the manifest has freed: 100 MB of a million rows
    settings: dict[str, str | bool | int | float | list[str]]
    settings = {"memory_limit": memory, "preserve_insertion_order": False, "threads": 2}
    with temporary_folder(folder, "join") as spill:
        connection = duckdb.connect(config={**settings, "temp_directory": str(spill)})
        try:
            yield connection
        except duckdb.Error as error:
            if "No space left" in str(error) or "max_temp_directory_size" in str(error):
                raise disk_full(spill / "join") from error
            raise
        finally:
            connection.close()
