"""Rows as records of Milvus, and back."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from connectors.milvus.parts import pack, part_id
from connectors.milvus.schema import LONGEST, UNUSED, Layout
from connectors.milvus.structs import structs, vectors_of
from connectors.milvus.values import field_values, list_key, text_key
from connectors.payloads import chunk_values, payload_from
from connectors.protocol import CollectionSchema, Patch, Payload
from m3core.types import Metadata, Row, Signal

# The token of a row without tokens: a sparse vector must not be empty. No vocabulary is so large.
_NO_TOKEN = 2**32 - 2

Record = dict[str, Any]


def record_of(row: Row, schema: CollectionSchema, layout: Layout) -> Record:
    """The row's record in the main collection."""
    chunk, vectors = row.chunk, row.vectors
    record: Record = {"id": chunk.id, "tenant": text_key(chunk.tenant), "doc_id": text_key(chunk.doc_id)}
    # An empty title or language counts as absent in filters, so it is absent.
    record |= {
        name: text_key(text) if text else "" for name, text in (("title", chunk.title), ("language", chunk.language))
    }
    if Signal.MULTI in schema.signals:
        record["vectors"] = len(vectors.multi)
        if layout is Layout.STRUCTS:
            record[Signal.MULTI.value] = structs(vectors.multi)
    if Signal.DENSE in schema.signals:
        record[Signal.DENSE.value] = vectors.dense.astype("float32").tolist()
    if Signal.LEXICAL in schema.signals:
        tokens = dict(zip(vectors.lexical_ids.tolist(), vectors.lexical_weights.tolist(), strict=True))
        record[Signal.LEXICAL.value] = tokens or {_NO_TOKEN: 1.0}
    if not schema.signals & {Signal.DENSE, Signal.LEXICAL}:
        record[UNUSED] = [1.0, 0.0]
    payload = chunk_values(chunk) if schema.keeps_text else None
    return _with_metadata(record, payload, chunk.metadata, chunk.acl, row.revision, schema)


def part_records(row: Row) -> Iterator[Record]:
    """The row's records in the collection of parts."""
    for place, text in enumerate(pack(row.vectors.multi)):
        yield {"id": part_id(row.chunk.id, place), "chunk": row.chunk.id, "packed": text, UNUSED: [1.0, 0.0]}


def record_problem(record: Record) -> str:
    """Why the server cannot keep a record; empty if it can."""
    for name, value in record.items():
        if isinstance(value, str) and len(value) > LONGEST:
            return f"column {name} would take {len(value)} bytes; Milvus keeps at most {LONGEST}"
    return ""


def record_bytes(record: Record) -> int:
    """About how long a record is on the wire: 4 bytes a number of a vector, 8 bytes a token, texts as they are."""
    size = 0
    for name, value in record.items():
        if name == Signal.MULTI:
            size += sum(len(part) for each in value for part in each.values())
        elif isinstance(value, str | list | dict):
            size += len(value) * {str: 1, list: 4, dict: 8}[type(value)]
        size += len(name) + 8
    return size


def patched(record: Mapping[str, Any], patch: Patch, schema: CollectionSchema) -> Record:
    """The whole record of a stored row with a patch's metadata and acl."""
    payload = _unpacked(record["payload"]) if schema.keeps_text else None
    whole = dict(record)
    if Signal.MULTI in whole:  # comes as numbers, goes as bytes
        whole[Signal.MULTI.value] = structs(
            vectors_of(whole["id"], whole["vectors"], schema.multi_dim, whole[Signal.MULTI])
        )
    return _with_metadata(whole, payload, patch.metadata, patch.acl, patch.revision, schema)


def payload_of(record: Mapping[str, Any]) -> Payload:
    """The stored row back as it was written."""
    payload = _unpacked(record["payload"])
    return payload_from(record["id"], payload, payload["metadata"], record["revision"])


def _with_metadata(
    record: Record,
    payload: dict[str, Any] | None,
    metadata: Metadata,
    acl: tuple[str, ...],
    revision: int,
    schema: CollectionSchema,
) -> Record:
    record |= {"revision": revision, "acl": list_key(acl), **field_values(metadata, schema.fields)}
    if payload is not None:
        record["payload"] = _packed({**payload, "acl": list(acl), "metadata": dict(metadata)})
    return record


def _packed(payload: Mapping[str, Any]) -> str:
    """Compressed, so that a chunk's text with its metadata fits; in base64, because texts of Milvus are UTF-8."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode())).decode("ascii")


def _unpacked(text: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return payload
