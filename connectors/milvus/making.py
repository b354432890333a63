"""Collections on the server: made if they are missing, and looked at as the server describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymilvus import DataType, MilvusClient

from connectors.milvus.schema import PROPERTY, Collection, Column, check_columns, check_description, description
from connectors.protocol import StoreOptions

# The writer reads what it wrote: its reads wait until the server has it all.
STRONG = "Strong"
_SIZES = {"VARCHAR": "max_length", "FLOAT_VECTOR": "dim"}


def make_collection(wanted: Collection, options: StoreOptions, client: MilvusClient, seconds: float) -> None:
    """Make the collection and its indexes as far as they are missing. Raises StoreError if it is another one."""
    if not client.has_collection(wanted.name, timeout=seconds):
        options.before_request()
        says = description(options.schema)
        client.create_collection(
            wanted.name,
            schema=milvus_schema(wanted, says),
            properties={PROPERTY: says},
            consistency_level=STRONG,
            timeout=seconds,
        )
    look_at(wanted, options, client, seconds)
    there = client.list_indexes(wanted.name, timeout=seconds)
    missing = [index for index in wanted.indexes if index[0] not in there]
    if missing:
        options.before_request()
        client.create_index(wanted.name, _index_params(missing), timeout=seconds)


def look_at(wanted: Collection, options: StoreOptions, client: MilvusClient, seconds: float) -> bool:
    """Whether the collection is there. Raises StoreError if it was not made for the schema, or lacks a column."""
    if not client.has_collection(wanted.name, timeout=seconds):
        return False
    found = client.describe_collection(wanted.name, timeout=seconds)
    # Milvus Lite keeps no descriptions.
    says = found.get("properties", {}).get(PROPERTY) or found.get("description", "")
    check_description(says, options.schema, options.name, wanted.name)
    check_columns(_columns(found), wanted, options.name)
    return True


def milvus_schema(wanted: Collection, says: str) -> Any:
    """The collection as pymilvus creates it."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=says)
    for place, column in enumerate(wanted.columns):
        schema.add_field(column.name, DataType[column.type], is_primary=place == 0, **_size(column))
    return schema


def _size(column: Column) -> dict[str, int]:
    return {_SIZES[column.type]: column.size} if column.type in _SIZES else {}


def _columns(found: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Columns of a described collection as (type, size) by name."""
    return {
        field["name"]: _described(DataType(field["type"]).name, field.get("params", {})) for field in found["fields"]
    }


def _described(kind: str, params: Mapping[str, Any]) -> tuple[str, int]:
    return kind, int(params.get(_SIZES.get(kind, ""), 0))


def _index_params(indexes: Sequence[tuple[str, str]]) -> Any:
    params = MilvusClient.prepare_index_params()
    for name, kind in indexes:
        params.add_index(name, index_type=kind, metric_type="IP")
    return params
