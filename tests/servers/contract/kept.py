"""One collection of the contract server: its rows, what passes an expression, and exact scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from pymilvus import DataType
from pymilvus.grpc_gen import common_pb2, schema_pb2

from tests.servers.contract.columns import Column, Row, sparse
from tests.servers.contract.expressions import Predicate, predicate

# pkg/util/merr of Milvus.
NO_COLLECTION, NOT_LOADED, NO_INDEX, BAD_PARAMETER = 100, 101, 700, 1100
SCALARS = {DataType.VARCHAR: str, DataType.INT64: int}
_PLACEHOLDERS = {
    DataType.FLOAT_VECTOR: common_pb2.PlaceholderType.FloatVector,
    DataType.SPARSE_FLOAT_VECTOR: common_pb2.PlaceholderType.SparseFloatVector,
    DataType.ARRAY: common_pb2.PlaceholderType.EmbListFloat16Vector,
}


class RefusedError(Exception):
    """An answer with this code as its status."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class Kept:
    """One collection."""

    schema: schema_pb2.CollectionSchema
    properties: Sequence[common_pb2.KeyValuePair]
    number: int
    columns: dict[str, Column]
    rows: dict[str, Row] = field(default_factory=dict)
    # By name: the column and its metric.
    indexes: dict[str, tuple[str, str]] = field(default_factory=dict)
    loaded: bool = False

    @property
    def key(self) -> str:
        """The primary key's column."""
        return next(each.name for each in self.schema.fields if each.is_primary_key)

    def passing(self, expression: str) -> list[Row]:
        """Rows by ascending key. Raises RefusedError."""
        try:
            says: Predicate = predicate(
                expression, {name: SCALARS[each.type] for name, each in self.columns.items() if each.type in SCALARS}
            )
        except ValueError as error:
            raise RefusedError(BAD_PARAMETER, str(error)) from None
        return [row for _, row in sorted(self.rows.items()) if says(row)]


def column_named(kept: Kept, name: str) -> Column:
    """The column of a vector: plain, or `array[field]`."""
    outer, _, inner = name.partition("[")
    column = kept.columns.get(outer)
    if column is None or (column.part is None) != (inner == "") or (column.part and inner != f"{column.part.name}]"):
        raise RefusedError(BAD_PARAMETER, f"{name} is no vector")
    return column


def scorer(kept: Kept, name: str, metric: str, group: bytes) -> Callable[[Row], float | None]:
    """A row's score; None where sparse vectors share no index."""
    column = column_named(kept, name)
    if (name, metric) not in kept.indexes.values():
        raise RefusedError(BAD_PARAMETER, f"metric {metric} is not that of the index on {name}")
    [placeholder] = common_pb2.PlaceholderGroup.FromString(group).placeholders
    if placeholder.type != _PLACEHOLDERS[column.type]:
        raise RefusedError(BAD_PARAMETER, f"vectors of {name} are not of type {placeholder.type}")
    [raw] = placeholder.values
    if column.type is DataType.SPARSE_FLOAT_VECTOR:
        weights = sparse(raw)
        return lambda row: _sparse_dot(weights, row[column.name])
    if column.part is None:
        vector = np.frombuffer(raw, "<f4")
        return lambda row: float(row[column.name] @ vector)
    vectors = np.frombuffer(raw, "<f2").reshape(-1, column.part.size).astype(np.float32)
    return lambda row: float((vectors @ row[column.name].astype(np.float32).T).max(axis=1).sum())


def _sparse_dot(query: dict[int, float], row: dict[int, float]) -> float | None:
    shared = query.keys() & row.keys()
    return sum(query[index] * row[index] for index in shared) if shared else None
