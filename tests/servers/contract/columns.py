"""Columns of a request as rows, and rows as columns of an answer, in Milvus's own messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymilvus import DataType
from pymilvus.grpc_gen import common_pb2, schema_pb2

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a collection; `size` is the longest text, the width of a vector, or the most structs of an array,
    whose one field is `part`."""

    name: str
    type: DataType
    size: int = 0
    part: Column | None = None


def columns_of(schema: schema_pb2.CollectionSchema) -> list[Column]:
    """Raises ValueError for a type that is not known here."""
    plain = [
        Column(field.name, DataType(field.data_type), _size(DataType(field.data_type), field.type_params))
        for field in schema.fields
    ]
    return [*plain, *map(_struct_column, schema.struct_array_fields)]


def named_on_server(schema: schema_pb2.CollectionSchema) -> schema_pb2.CollectionSchema:
    """The schema as a server describes it: a struct's field is called `array[field]`."""
    told = schema_pb2.CollectionSchema()
    told.CopyFrom(schema)
    for array in told.struct_array_fields:
        for field in array.fields:
            field.name = f"{array.name}[{field.name}]"
    return told


def rows_of(fields: Iterable[schema_pb2.FieldData], columns: Sequence[Column], count: int) -> list[Row]:
    """Rows of an upsert. Raises ValueError for what a server refuses: columns that are missing or of another type,
    texts, vectors and arrays that are too long."""
    by_name = {field.field_name: field for field in fields}
    if by_name.keys() != {column.name for column in columns}:
        raise ValueError(f"columns are {sorted(by_name)}, not {sorted(column.name for column in columns)}")
    values = {column.name: _values(by_name[column.name], column) for column in columns}
    if any(len(each) != count for each in values.values()):
        raise ValueError("columns differ in length")
    return [{name: each[place] for name, each in values.items()} for place in range(count)]


def field_data(column: Column, values: Sequence[Any]) -> schema_pb2.FieldData:
    """One column of an answer."""
    data = schema_pb2.FieldData(field_name=column.name, type=int(column.type))
    match column.type:
        case DataType.VARCHAR:
            data.scalars.string_data.data.extend(values)
        case DataType.INT64:
            data.scalars.long_data.data.extend(values)
        case DataType.FLOAT_VECTOR:
            data.vectors.dim = column.size
            data.vectors.float_vector.data.extend(np.concatenate(values) if values else ())
        case DataType.SPARSE_FLOAT_VECTOR:
            data.vectors.sparse_float_vector.contents.extend(_sparse_bytes(value) for value in values)
        case _ if column.part is not None:
            data.type = int(DataType._ARRAY_OF_STRUCT)
            data.struct_arrays.fields.append(_vector_arrays(column, column.part, values))
        case _:
            raise ValueError(f"{column.type.name} is not known here")
    return data


def sparse(raw: bytes) -> dict[int, float]:
    """A sparse vector from its bytes: pairs of a 32-bit index and a float32."""
    pairs = np.frombuffer(raw, np.dtype([("index", "<u4"), ("value", "<f4")]))
    return dict(zip(pairs["index"].tolist(), pairs["value"].tolist(), strict=True))


def _size(kind: DataType, params: Iterable[common_pb2.KeyValuePair]) -> int:
    known = {pair.key: pair.value for pair in params}
    name = {DataType.VARCHAR: "max_length", DataType.FLOAT_VECTOR: "dim", DataType.FLOAT16_VECTOR: "dim"}.get(kind, "")
    return int(known[name]) if name else 0


def _struct_column(array: schema_pb2.StructArrayFieldSchema) -> Column:
    [field] = array.fields
    if field.data_type != DataType._ARRAY_OF_VECTOR or field.element_type != DataType.FLOAT16_VECTOR:
        raise ValueError(f"{array.name}: only arrays of fp16 vectors are known here")
    capacity = next(int(pair.value) for pair in field.type_params if pair.key == "max_capacity")
    if not 0 < capacity <= 4096:
        raise ValueError(f"{array.name}: max_capacity {capacity} is not within 1 and 4096")
    part = Column(field.name, DataType.FLOAT16_VECTOR, _size(DataType.FLOAT16_VECTOR, field.type_params))
    return Column(array.name, DataType.ARRAY, capacity, part)


def _values(data: schema_pb2.FieldData, column: Column) -> list[Any]:
    match column.type:
        case DataType.VARCHAR:
            texts = list(data.scalars.string_data.data)
            if any(len(text.encode()) > column.size for text in texts):
                raise ValueError(f"column {column.name}: a text is longer than {column.size}")
            return texts
        case DataType.INT64:
            return list(data.scalars.long_data.data)
        case DataType.FLOAT_VECTOR:
            return list(np.array(data.vectors.float_vector.data, np.float32).reshape(-1, column.size))
        case DataType.SPARSE_FLOAT_VECTOR:
            return [_checked(sparse(raw)) for raw in data.vectors.sparse_float_vector.contents]
        case _ if column.part is not None:
            return [
                _array(value, column, column.part) for value in _struct_field(data, column).vectors.vector_array.data
            ]
        case _:
            raise ValueError(f"{column.type.name} is not known here")


def _checked(vector: dict[int, float]) -> dict[int, float]:
    if not vector:
        raise ValueError("a sparse vector is empty")
    return vector


def _struct_field(data: schema_pb2.FieldData, column: Column) -> schema_pb2.FieldData:
    [field] = data.struct_arrays.fields
    if column.part is None or field.field_name not in (column.part.name, f"{column.name}[{column.part.name}]"):
        raise ValueError(f"column {column.name} has no field {field.field_name}")
    return field


def _array(value: schema_pb2.VectorField, column: Column, part: Column) -> np.ndarray:
    vectors = np.frombuffer(value.float16_vector, np.dtype("<f2")).reshape(-1, part.size)
    if not 0 < len(vectors) <= column.size:
        raise ValueError(f"column {column.name}: {len(vectors)} structs; at least 1 and at most {column.size}")
    return vectors


def _vector_arrays(column: Column, part: Column, values: Sequence[np.ndarray]) -> schema_pb2.FieldData:
    data = schema_pb2.FieldData(field_name=f"{column.name}[{part.name}]", type=int(DataType._ARRAY_OF_VECTOR))
    array = data.vectors.vector_array
    data.vectors.dim = array.dim = part.size
    array.element_type = int(part.type)
    for vectors in values:
        array.data.append(schema_pb2.VectorField(dim=part.size, float16_vector=vectors.tobytes()))
    return data


def _sparse_bytes(value: Mapping[int, float]) -> bytes:
    return np.array(sorted(value.items()), np.dtype([("index", "<u4"), ("value", "<f4")])).tobytes()
