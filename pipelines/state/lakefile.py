"""One lake file: the vectors of one unit. Its format, for whoever writes a second reader:

Parquet, kind `threefold.lake`, format 1 (`tables.py`), named `<sha256 of its keys, ascending, joined>.parquet`. One row
per text, ascending by key, no key twice, at most about a megabyte of vectors per row group, uncompressed, no
dictionaries. Everything is little-endian; nothing is null.

    key              32 bytes      `lake_key`: of tenant, encoder fingerprint and encoded text
    dense            2 D bytes     f16 [D]
    lexical_ids      4 K bytes     u32 [K], ascending; K may be 0
    lexical_weights  4 K bytes     f32 [K]
    multi            2 T D' bytes  f16 [T, D'], row after row; T may be 0
    multi_rows       u32           T
    check            u32           CRC-32 (IEEE, as zlib's) of key, dense, lexical_ids, lexical_weights, multi, and T
                                   and D' as u32, joined

The footer's metadata has `fingerprint` (of the encoder), `dense_dim` (D), `multi_dim` (D') and `created` (a stamp).

Why uncompressed: measured on a unit of 345 texts of 190 tokens at 128 dimensions (17.2 MB; 148 lexical weights a text),
zstd makes the multi-vectors 8 % smaller and reading them 4 to 7 times slower (2.8 -> 19.5 ms); it halves the lexical
ids and takes 14 % off the weights, together 0.7 % of the file. 41,143 texts of 190 tokens are 2.07 GB.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3core.errors import StateError
from m3core.types import ChunkVectors
from pipelines.state.clock import utc_now
from pipelines.state.files import atomic_file, damaged
from pipelines.state.tables import TableKind, extra_metadata, open_table, reading, with_kind

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIX = ".parquet"
KEY_BYTES = 32
_PACKING = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
_KIND = TableKind("threefold.lake", 1, options=_PACKING)
_GROUP_BYTES = 1 << 20
_COLUMNS = ("key", "dense", "lexical_ids", "lexical_weights", "multi", "multi_rows", "check")


@dataclass(frozen=True)
class FileSeal:
    """Name (32 raw bytes), size and sha256 of a lake file, as the key index keeps them."""

    name: bytes
    size: int
    sha256: bytes


def unit_name(sorted_keys: npt.NDArray[np.bytes_]) -> bytes:
    """Name of the unit that holds exactly these keys, `[N]` of 32 bytes, ascending; 32 raw bytes."""
    return hashlib.sha256(sorted_keys.tobytes()).digest()


def path_of(folder: Path, name: bytes) -> Path:
    """The file of a unit."""
    return folder / (name.hex() + SUFFIX)


def write_lake_file(folder: Path, fingerprint: str, unit: Mapping[bytes, ChunkVectors], created: str = "") -> FileSeal:
    """Write the file of a unit, durably. FileExistsError if it is there; ValueError if vectors differ in shape.

    `created`: the stamp of an older file that these rows are from; now, if there is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = sorted(unit)
    vectors = [unit[key] for key in keys]
    dense_dim, multi_dim = _dimensions(vectors)
    table = _table(keys, vectors, dense_dim)
    extra = {
        "fingerprint": fingerprint, "dense_dim": str(dense_dim), "multi_dim": str(multi_dim),
        "created": created or utc_now(),
    }  # fmt: skip
    path = path_of(folder, unit_name(np.frombuffer(b"".join(keys), dtype="S32")))
    rows_per_group = max(1, len(keys) * _GROUP_BYTES // max(1, table.nbytes))
    with atomic_file(path, keep_existing=True) as file:
        schema = with_kind(table.schema, _KIND, extra)
        with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema, **_PACKING) as writer:
            writer.write_table(table, row_group_size=rows_per_group)
    return seal(path)


def seal(path: Path) -> FileSeal:
    """Size and hash of a lake file as it is."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return FileSeal(bytes.fromhex(path.name.removesuffix(SUFFIX)), file.tell(), digest)


def read_keys(path: Path) -> npt.NDArray[np.bytes_]:
    """Keys of a lake file in the order of its rows, `[N]` of 32 bytes. Errors as `read_rows`."""
    file = open_table(path, _KIND)
    with reading(path):
        column = file.read(columns=["key"]).column("key")
        keys = np.frombuffer(b"".join(column.to_pylist()), dtype="S32")
        if unit_name(keys).hex() != path.name.removesuffix(SUFFIX):
            raise damaged(path, "its keys are not those of its name")
        return keys


def row_count(path: Path) -> int:
    """Rows of a file. Errors as `read_rows`."""
    return int(open_table(path, _KIND).metadata.num_rows)


def read_created(path: Path) -> str:
    """The stamp of the moment when the rows of a file were encoded. Errors as `read_rows`."""
    return extra_metadata(open_table(path, _KIND))["created"]


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a lake file, pages verified, rows not. Errors as `read_rows`."""
    file = open_table(path, _KIND)
    with reading(path):
        return file.read(list(columns))


def read_rows(path: Path, rows: Sequence[int], keys: Sequence[bytes], fingerprint: str) -> Iterator[ChunkVectors]:
    """Vectors of some rows, in their order; views of what was read, not writable, no copy.

    `keys` are what the rows must hold. FileNotFoundError if the file is gone; DamagedError if it, or one of the rows,
    is damaged or of another encoder.
    """
    file = open_table(path, _KIND)
    with reading(path):
        extra = extra_metadata(file)
        if extra["fingerprint"] != fingerprint:
            raise damaged(path, f"its vectors are of the encoder {extra['fingerprint']}")
        shape = int(extra["dense_dim"]), int(extra["multi_dim"])
        groups = _Groups(file)
        decoded = {group: _Rows(file.read_row_group(group, list(_COLUMNS))) for group in groups.of(rows)}
        for row, key in zip(rows, keys, strict=True):
            group, place = groups.place(row)
            yield decoded[group].vectors(place, key, shape)


class _Groups:
    """Which row group a row is in."""

    def __init__(self, file: pq.ParquetFile) -> None:
        metadata = file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def of(self, rows: Sequence[int]) -> list[int]:
        return sorted({self.place(row)[0] for row in rows})

    def place(self, row: int) -> tuple[int, int]:
        if not 0 <= row < self._starts[-1]:
            raise ValueError(f"it has no row {row}")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - int(self._starts[group])


class _Rows:
    """Rows of one row group, as views of Arrow's buffers."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = [_column(table.column(name)) for name in _COLUMNS[:5]]
        self._multi_rows = table.column("multi_rows").to_numpy()
        self._checks = table.column("check").to_numpy()

    def vectors(self, row: int, key: bytes, shape: tuple[int, int]) -> ChunkVectors:
        """One row; ValueError if it is not what was written for `key`."""
        found, dense, ids, weights, multi = parts = [column[row] for column in self._columns]
        multi_shape = int(self._multi_rows[row]), shape[1]
        if _check(parts, multi_shape) != int(self._checks[row]) or dense.nbytes != 2 * shape[0]:
            raise ValueError(f"the checksum of row {row} of a group does not match")
        if bytes(found) != key:
            raise ValueError(f"row {row} of a group is of another text than the index says")
        return ChunkVectors(
            dense=np.frombuffer(dense, "<f2"),
            lexical_ids=np.frombuffer(ids, "<u4"),
            lexical_weights=np.frombuffer(weights, "<f4"),
            multi=np.frombuffer(multi, "<f2").reshape(multi_shape),
        )


class _Column:
    """Values of one binary column, each a view."""

    def __init__(self, data: memoryview, bounds: npt.NDArray[np.int64]) -> None:
        self._data = data.toreadonly()
        self._bounds = bounds

    def __getitem__(self, row: int) -> memoryview:
        return self._data[int(self._bounds[row]) : int(self._bounds[row + 1])]


def _column(chunked: Any) -> _Column:
    import pyarrow as pa

    array = chunked.combine_chunks()
    if pa.types.is_fixed_size_binary(array.type):
        bounds = (np.arange(len(array) + 1, dtype=np.int64) + array.offset) * array.type.byte_width
        return _Column(memoryview(array.buffers()[1]), bounds)
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    return _Column(memoryview(data if data is not None else b""), offsets.astype(np.int64))


def _dimensions(vectors: Sequence[ChunkVectors]) -> tuple[int, int]:
    """D and D' of the unit; ValueError if they differ or an array is not of the stored type."""
    shapes = {(one.dense.shape, one.multi.shape[1:]) for one in vectors}
    types = {(one.dense.dtype, one.lexical_ids.dtype, one.lexical_weights.dtype, one.multi.dtype) for one in vectors}
    if types != {(np.dtype("f2"), np.dtype("u4"), np.dtype("f4"), np.dtype("f2"))}:
        raise ValueError(f"stored vectors are f16, u32, f32, f16; these are {types}")
    if len(shapes) != 1 or any(one.lexical_ids.shape != one.lexical_weights.shape for one in vectors):
        raise ValueError(f"the vectors of a unit differ in shape: {sorted(shapes)}")
    ((dense, multi),) = shapes
    if len(dense) != 1 or len(multi) != 1 or not dense[0]:
        raise ValueError(f"dense is [D] and multi [T, D']; these are {dense} and [T, {multi}]")
    return dense[0], multi[0]


def _table(keys: Sequence[bytes], vectors: Sequence[ChunkVectors], dense_dim: int) -> pa.Table:
    import pyarrow as pa

    columns = [
        _fixed(keys, KEY_BYTES),
        _fixed([_bytes(one.dense, "<f2") for one in vectors], 2 * dense_dim),
        _binary([_bytes(one.lexical_ids, "<u4") for one in vectors]),
        _binary([_bytes(one.lexical_weights, "<f4") for one in vectors]),
        _binary([_bytes(one.multi, "<f2") for one in vectors]),
        pa.array([len(one.multi) for one in vectors], pa.uint32()),
        pa.array([_check_of(key, one) for key, one in zip(keys, vectors, strict=True)], pa.uint32()),
    ]
    schema = pa.schema([pa.field(name, c.type, nullable=False) for name, c in zip(_COLUMNS, columns, strict=True)])
    return pa.Table.from_arrays(columns, schema=schema)


def _check_of(key: bytes, one: ChunkVectors) -> int:
    arrays = ((one.dense, "<f2"), (one.lexical_ids, "<u4"), (one.lexical_weights, "<f4"), (one.multi, "<f2"))
    return _check([key, *(_bytes(array, dtype) for array, dtype in arrays)], one.multi.shape)


def _check(parts: Sequence[bytes | memoryview], multi_shape: tuple[int, ...]) -> int:
    value = 0
    for part in (*parts, struct.pack("<2I", *multi_shape)):
        value = zlib.crc32(part, value)
    return value


def _bytes(array: npt.NDArray[Any], dtype: str) -> memoryview:
    return np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8).data


def _fixed(values: Sequence[bytes | memoryview], width: int) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(b"".join(values))])


def _binary(values: Sequence[memoryview]) -> pa.Array:
    import pyarrow as pa

    offsets = np.cumsum([0, *(value.nbytes for value in values)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise StateError(f"a unit of {offsets[-1]:,} bytes is too large for one lake file", "cut it at UNIT_BYTES")
    data = pa.py_buffer(b"".join(values))
    return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(offsets.astype(np.int32)), data])
