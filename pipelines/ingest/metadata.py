"""Metadata of one document: flat values under names that are not the row's own, of the declared types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from m3core.config.model import RESERVED_FIELDS, FieldKind
from m3core.errors import DocumentError
from m3core.types import Metadata, MetadataValue
from pipelines.ingest.values import check_characters, field_kind, kind_of, parse_json, short_string

MAX_METADATA_KEY = 128
MAX_METADATA_BYTES = 64 << 10
MAX_INTEGER = 1 << 53  # what a JSON number keeps exactly


def metadata_of(record: Mapping[str, Any], fields: Mapping[str, FieldKind]) -> Metadata:
    """The record's `metadata` (an object, or one as JSON) and its declared fields, keys in order.

    Null and an empty list are left out: absent, null and empty are the same. Undeclared fields are kept, though they
    cannot be filtered on.

    Raises:
        DocumentError: a name is reserved, a value is of another type than declared, or all is over 64 KiB of JSON.
    """
    given = _metadata_object(record.get("metadata"))
    for name in fields:
        if record.get(name) is None:
            continue
        if given.get(name) is not None:
            raise DocumentError(f"field {name!r} is given twice, by itself and in metadata", "give it once")
        given[name] = record[name]
    metadata = {}
    for name in sorted(given):
        value = _metadata_value(name, given[name], fields.get(name))
        if value is not None:
            metadata[name] = value
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise DocumentError(
            f"metadata has {size:,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are allowed", "shorten it"
        )
    return metadata


def _metadata_object(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        value = parse_json(value, "metadata") if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentError(f"metadata is {kind_of(value)}; an object is needed", "give it as an object of fields")
    for name in value:
        short_string(name, "metadata field name", MAX_METADATA_KEY)
        if name in RESERVED_FIELDS:
            raise DocumentError(f"metadata field {name!r} is a name of the row itself", "rename the field")
    return dict(value)


def _metadata_value(name: str, value: object, kind: FieldKind | None) -> MetadataValue | None:
    """The value as it is kept; None for null and for an empty list, which are the same as absent."""
    if value is None or value == [] or value == ():
        return None
    kept = _plain_value(name, value)
    if kind == "number" and isinstance(kept, int) and not isinstance(kept, bool):
        return float(kept)
    if kind is not None and field_kind(kept) != kind:
        raise DocumentError(
            f"metadata field {name!r} is {kind_of(value)}; it is declared as {kind}",
            "correct the value or the declaration",
        )
    return kept


def _plain_value(name: str, value: object) -> MetadataValue:
    if isinstance(value, str):
        check_characters(value, f"metadata field {name!r}")
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise DocumentError(f"metadata field {name!r} is an integer beyond 2^53", "give it as a string")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DocumentError(f"metadata field {name!r} is not a finite number", "leave the field out")
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        for part in value:
            check_characters(part, f"metadata field {name!r}")
        return tuple(value)
    raise DocumentError(
        f"metadata field {name!r} is {kind_of(value)}; a string, number, boolean or list of strings is needed",
        "flatten or leave out the field",
    )
