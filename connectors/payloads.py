"""A row without its vectors as JSON keeps it, and back; the same in every store that keeps the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.protocol import Payload
from m3core.types import Chunk


def chunk_values(chunk: Chunk) -> dict[str, Any]:
    """What a patch never changes: everything but id, metadata, acl and revision."""
    return {
        "tenant": chunk.tenant,
        "doc_id": chunk.doc_id,
        "ordinal": chunk.ordinal,
        "span": list(chunk.span),
        "title": chunk.title,
        "context": chunk.context,
        "text": chunk.text,
        "language": chunk.language,
    }


def payload_from(chunk_id: str, values: Mapping[str, Any], metadata: Mapping[str, Any], revision: int) -> Payload:
    """The stored row back as it was written. `values` are `chunk_values` and acl; an empty title or language may be
    absent. JSON has no tuples: a list in `metadata` was one."""
    return Payload(
        id=chunk_id,
        tenant=values["tenant"],
        doc_id=values["doc_id"],
        ordinal=values["ordinal"],
        span=(values["span"][0], values["span"][1]),
        title=values.get("title", ""),
        context=values["context"],
        text=values["text"],
        language=values.get("language", ""),
        metadata={name: tuple(value) if isinstance(value, list) else value for name, value in metadata.items()},
        acl=tuple(values["acl"]),
        revision=revision,
    )
