"""A row's payload as the embedded engine and the server keep it, and back.

tenant, acl, doc_id, language, title, fields.*    what filters name
revision                                          the run that wrote the row
ordinal, span, context, text, metadata            the row as it was written; only where the store keeps the text
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.payloads import payload_from
from connectors.protocol import CollectionSchema, Patch, Payload
from m3core.types import Chunk, Metadata, MetadataValue

_FIELDS = "fields"


def field_key(name: str) -> str:
    """Payload path of a filterable field: a row's own field, or a declared one."""
    if name in ("tenant", "acl", "doc_id", "language", "title"):
        return name
    return f'{_FIELDS}."{name}"'


def stored_value(value: MetadataValue) -> Any:
    """A declared field's value as it is indexed. The embedded engine's bindings take True for 1: booleans are words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return list(value) if isinstance(value, tuple) else value


def row_payload(chunk: Chunk, revision: int, schema: CollectionSchema) -> dict[str, Any]:
    payload = _metadata_payload(chunk.metadata, schema) | {
        "tenant": chunk.tenant,
        "doc_id": chunk.doc_id,
        "acl": list(chunk.acl),
        "revision": revision,
    }
    # An empty title or language counts as absent in filters, so it is absent.
    payload |= {name: value for name, value in (("title", chunk.title), ("language", chunk.language)) if value}
    if schema.keeps_text:
        payload |= {
            "ordinal": chunk.ordinal,
            "span": list(chunk.span),
            "context": chunk.context,
            "text": chunk.text,
        }
    return payload


def patch_payload(patch: Patch, schema: CollectionSchema) -> dict[str, Any]:
    """The payload keys that a patch replaces."""
    return _metadata_payload(patch.metadata, schema) | {"acl": list(patch.acl), "revision": patch.revision}


def payload_of(chunk_id: str, payload: Mapping[str, Any]) -> Payload:
    """The stored row back as it was written."""
    return payload_from(chunk_id, payload, payload["metadata"], payload["revision"])


def _metadata_payload(metadata: Metadata, schema: CollectionSchema) -> dict[str, Any]:
    payload: dict[str, Any] = {
        _FIELDS: {name: stored_value(value) for name, value in metadata.items() if name in schema.fields}
    }
    if schema.keeps_text:
        payload["metadata"] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in metadata.items()
        }
    return payload
