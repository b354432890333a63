"""Vectors as Parquet, kind `threefold.vectors`, format 1 (`pipelines/state/tables.py`), one row a text:

    id               string
    dense            fixed_size_list<float32>[D]
    lexical_ids      list<uint32>, ascending
    lexical_weights  list<float32>
    multi            list<float32>: T vectors of D' values, one after another: `values.reshape(-1, multi_dim)`
    tokens           int32: all that the model read, specials and prefix included
    truncated        bool: the text was longer than that

The footer's metadata has `model`, `fingerprint` (of the encoder), `text_kind` (query or passage), `dense_dim` (D) and
`multi_dim` (D'). A signal that was not asked for has no column. float32 throughout: few readers of Parquet know
float16, and so the values are the encoder's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from m3core.types import Encoded, Int64Array, Signal
from pipelines.encode.origin import Origin
from pipelines.state.tables import TableKind, with_kind

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Vectors do not get smaller: see pipelines/state/lakefile.py.
_PACKING = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
_KIND = TableKind("threefold.vectors", 1, options=_PACKING)
_GROUP_BYTES = 32 << 20


class Parquet:
    """A `Writer` into an open file, by row groups of bounded size. Made by `parquet_into`, which adds the footer."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file = file
        self._schema = schema

    def add(self, ids: Sequence[str], encoded: Encoded) -> None:
        """One row group, or several."""
        for rows in _groups(encoded):
            self._file.write_table(_table(ids, encoded, rows, self._schema))


@contextmanager
def parquet_into(file: BinaryIO, origin: Origin) -> Iterator[Parquet]:
    """A writer of one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(origin)
    with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema, **_PACKING) as writer:
        yield Parquet(writer, schema)


def _schema(origin: Origin) -> pa.Schema:
    import pyarrow as pa

    columns: dict[str, Any] = {"id": pa.string()}
    if Signal.DENSE in origin.signals:
        columns["dense"] = pa.list_(pa.float32(), origin.dense_dim)
    if Signal.LEXICAL in origin.signals:
        columns |= {"lexical_ids": pa.list_(pa.uint32()), "lexical_weights": pa.list_(pa.float32())}
    if Signal.MULTI in origin.signals:
        columns["multi"] = pa.list_(pa.float32())
    columns |= {"tokens": pa.int32(), "truncated": pa.bool_()}
    widths = {"dense_dim": str(origin.dense_dim), "multi_dim": str(origin.multi_dim)}
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])
    return with_kind(schema, _KIND, {**origin.labels, **widths})


def _groups(encoded: Encoded) -> Iterator[slice]:
    """Runs of rows with some 32 MiB of vectors each, or one row with more: offsets of lists count to 2^31 only."""
    sizes = np.full(len(encoded), 8, dtype=np.int64)
    if encoded.dense is not None:
        sizes += 4 * encoded.dense.shape[1]
    if encoded.lexical is not None:
        sizes += 8 * np.diff(encoded.lexical.indptr)
    if encoded.multi is not None:
        sizes += 4 * encoded.multi.values.shape[1] * np.diff(encoded.multi.offsets)
    group = (np.cumsum(sizes) - sizes) // _GROUP_BYTES
    bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(encoded)]
    return (slice(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop)


def _table(ids: Sequence[str], encoded: Encoded, rows: slice, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {"id": pa.array(ids[rows], pa.string())}
    if encoded.dense is not None:
        columns["dense"] = pa.FixedSizeListArray.from_arrays(encoded.dense[rows].ravel(), encoded.dense.shape[1])
    if encoded.lexical is not None:
        columns["lexical_ids"] = _lists(encoded.lexical.ids, encoded.lexical.indptr, rows)
        columns["lexical_weights"] = _lists(encoded.lexical.weights, encoded.lexical.indptr, rows)
    if encoded.multi is not None:
        values = encoded.multi.values
        columns["multi"] = _lists(values.ravel(), encoded.multi.offsets * values.shape[1], rows)
    columns |= {"tokens": encoded.token_counts[rows], "truncated": encoded.truncated[rows]}
    return pa.Table.from_arrays([pa.array(columns[name]) for name in schema.names], schema=schema)


def _lists(values: np.typing.NDArray[Any], offsets: Int64Array, rows: slice) -> pa.Array:
    import pyarrow as pa

    here = offsets[rows.start : rows.stop + 1]
    return pa.ListArray.from_arrays((here - here[0]).astype(np.int32), pa.array(values[here[0] : here[-1]]))
