"""Collections on the server: made if they are missing, and looked at as the server describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymilvus import DataType, MilvusClient

from connectors.milvus.schema import (
    PROPERTY,
    Collection,
    Column,
    Index,
    Layout,
    check_columns,
    check_description,
    description,
)
from connectors.protocol import StoreOptions

# The writer reads what it wrote: its reads wait until the server has it all.
STRONG = "Strong"
_SIZES = {"VARCHAR": "max_length", "FLOAT_VECTOR": "dim", "FLOAT16_VECTOR": "dim", "ARRAY": "max_capacity"}


def make_collection(
    wanted: Collection, layout: Layout, options: StoreOptions, client: MilvusClient, seconds: float
) -> None:
    """Make the collection and its indexes as far as they are missing. Raises StoreError if it is another one."""
    if not client.has_collection(wanted.name, timeout=seconds):
        options.before_request()
        says = description(options.schema, layout)
        client.create_collection(
            wanted.name,
            schema=milvus_schema(wanted, says),
            properties={PROPERTY: says},
            consistency_level=STRONG,
            timeout=seconds,
        )
    look_at(wanted, layout, options, client, seconds)
    there = client.list_indexes(wanted.name, timeout=seconds)
    missing = [index for index in wanted.indexes if index.name not in there]
    if missing:
        options.before_request()
        # Not waited for, which takes half a second each: the collection is empty, and loading it comes next.
        client.create_index(wanted.name, _index_params(missing), timeout=seconds, sync=False)


def look_at(wanted: Collection, layout: Layout, options: StoreOptions, client: MilvusClient, seconds: float) -> bool:
    """Whether the collection is there. Raises StoreError if it was not made for the schema, or lacks a column."""
    if not client.has_collection(wanted.name, timeout=seconds):
        return False
    found = client.describe_collection(wanted.name, timeout=seconds)
    # Milvus Lite keeps no descriptions.
    says = found.get("properties", {}).get(PROPERTY) or found.get("description", "")
    check_description(says, options.schema, layout, options.name, wanted.name)
    check_columns({column.name: column for column in _columns(found["fields"])}, wanted, options.name)
    return True


def milvus_schema(wanted: Collection, says: str) -> Any:
    """The collection as pymilvus creates it."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=says)
    for place, column in enumerate(wanted.columns):
        schema.add_field(column.name, DataType[column.type], is_primary=place == 0, **_size(column), **_structs(column))
    return schema


def _structs(column: Column) -> dict[str, Any]:
    if not column.of:
        return {}
    each = MilvusClient.create_struct_field_schema()
    for part in column.of:
        each.add_field(part.name, DataType[part.type], **_size(part))
    return {"element_type": DataType.STRUCT, "struct_schema": each}


def _size(column: Column) -> dict[str, int]:
    return {_SIZES[column.type]: column.size} if column.type in _SIZES else {}


def _columns(fields: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Columns as a server describes them."""
    return tuple(_column(field) for field in fields)


def _column(field: Mapping[str, Any]) -> Column:
    kind = DataType(field["type"]).name
    size = int(field.get("params", {}).get(_SIZES.get(kind, ""), 0))
    return Column(field["name"], kind, size, _columns(field.get("struct_fields", ())))


def _index_params(indexes: Sequence[Index]) -> Any:
    params = MilvusClient.prepare_index_params()
    for index in indexes:
        params.add_index(
            index.column,
            index_type=index.type,
            index_name=index.name,
            metric_type=index.metric,
            params=dict(index.params),
        )
    return params
