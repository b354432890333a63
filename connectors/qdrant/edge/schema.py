"""How one collection lies in an Edge shard: vectors, indexes, payload, and the description kept beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from connectors.protocol import Capabilities, CollectionSchema, FieldType, Patch, Payload
from connectors.snapshots.disk import write_text
from m3core.errors import StoreError
from m3core.types import Chunk, Metadata, MetadataValue, Row, Signal

# Version of what this module writes: payload keys, vector names, storage types.
FORMAT = 1
DESCRIPTION_FILE = "schema.json"
SHARD_FOLDER = "shard"

# m = 0: no graph. Multi-vectors only score known ids; dense vectors are scanned, exactly (figures in the README).
_NO_GRAPH = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000)
_FIELDS = "fields"


def edge_capabilities(schema: CollectionSchema) -> Capabilities:
    """Every signal in one folder; multi-vectors are kept in 8 bits (5e-4 per score), the rest exactly."""
    return Capabilities(
        signals=schema.signals,
        keeps_text=schema.keeps_text,
        fences=False,
        patches_in_place=True,
        exact=Signal.MULTI not in schema.signals,
        max_vectors_per_row=8192,
        embedded=True,
    )


def shard_config(schema: CollectionSchema) -> edge.EdgeConfig:
    """Everything is read through memory maps, so that a large folder does not need large memory.

    No write-ahead log: a working copy that was not published is thrown away, so flushing before publishing is enough.
    """
    cold = edge.Memory.Cold
    vectors = {}
    if Signal.DENSE in schema.signals:
        vectors[Signal.DENSE.value] = edge.EdgeVectorParams(
            size=schema.dense_dim,
            distance=edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Float16,
            hnsw_config=_NO_GRAPH,
            memory=cold,
        )
    if Signal.MULTI in schema.signals:
        vectors[Signal.MULTI.value] = edge.EdgeVectorParams(
            size=schema.multi_dim,
            distance=edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Turbo8,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            hnsw_config=_NO_GRAPH,
            memory=cold,
        )
    sparse = {}
    if Signal.LEXICAL in schema.signals:
        sparse[Signal.LEXICAL.value] = edge.EdgeSparseVectorParams(memory=cold)
    return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse, payload_memory=cold, wal_enabled=False)


def index_operations(schema: CollectionSchema) -> list[edge.UpdateOperation]:
    """Payload indexes of the fields that filters name most, declared ones included."""
    cold = edge.Memory.Cold
    keyword = edge.KeywordIndexParams(memory=cold)
    params: dict[FieldType, Any] = {
        FieldType.STRING: keyword,
        FieldType.STRINGS: keyword,
        FieldType.BOOLEAN: keyword,
        FieldType.INTEGER: edge.IntegerIndexParams(lookup=True, range=True, memory=cold),
        FieldType.NUMBER: edge.FloatIndexParams(memory=cold),
    }
    create = edge.UpdateOperation.create_field_index
    operations = [create(key, keyword) for key in ("tenant", "acl", "doc_id", "language")]
    operations += [create(field_key(name), params[FieldType(kind)]) for name, kind in sorted(schema.fields.items())]
    return operations


def field_key(name: str) -> str:
    """Payload path of a filterable field: a row's own field, or a declared one."""
    if name in ("tenant", "acl", "doc_id", "language", "title"):
        return name
    return f'{_FIELDS}."{name}"'


def stored_value(value: MetadataValue) -> Any:
    """A declared field's value as it is indexed. Edge's bindings take True for 1, so booleans are words there."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return list(value) if isinstance(value, tuple) else value


def point_of(row: Row, schema: CollectionSchema) -> edge.Point:
    """The row as Edge takes it. A signal without a single token or vector is left out."""
    vectors: dict[str, Any] = {}
    if Signal.DENSE in schema.signals:
        vectors[Signal.DENSE.value] = row.vectors.dense.tolist()
    if Signal.MULTI in schema.signals and len(row.vectors.multi):
        vectors[Signal.MULTI.value] = row.vectors.multi.tolist()
    if Signal.LEXICAL in schema.signals and len(row.vectors.lexical_ids):
        vectors[Signal.LEXICAL.value] = edge.SparseVector(
            row.vectors.lexical_ids.tolist(), row.vectors.lexical_weights.tolist()
        )
    return edge.Point(row.chunk.id, vectors, _row_payload(row.chunk, row.revision, schema))


def patch_payload(patch: Patch, schema: CollectionSchema) -> dict[str, Any]:
    """The payload keys that a patch replaces."""
    return _metadata_payload(patch.metadata, schema) | {"acl": list(patch.acl), "revision": patch.revision}


def payload_of(chunk_id: str, payload: Mapping[str, Any]) -> Payload:
    """The stored row back as it was written."""
    return Payload(
        id=chunk_id,
        tenant=payload["tenant"],
        doc_id=payload["doc_id"],
        ordinal=payload["ordinal"],
        span=(payload["span"][0], payload["span"][1]),
        title=payload.get("title", ""),
        context=payload["context"],
        text=payload["text"],
        language=payload.get("language", ""),
        metadata={name: _loaded(value) for name, value in payload["metadata"].items()},
        acl=tuple(payload["acl"]),
        revision=payload["revision"],
    )


def write_description(folder: Path, schema: CollectionSchema) -> None:
    """Keep beside the shard what it was made for."""
    write_text(folder / DESCRIPTION_FILE, json.dumps(_description(schema), indent=1, ensure_ascii=False))


def check_description(folder: Path, schema: CollectionSchema, store: str) -> None:
    """Raise StoreError unless the snapshot in `folder` was made for `schema` by a compatible qdrant-edge."""
    try:
        found = json.loads((folder / DESCRIPTION_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"store {store!r}: {folder / DESCRIPTION_FILE} cannot be read: {error}", "restore the folder from a backup"
        ) from None
    wanted = _description(schema)
    different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if different:
        key = different[0]
        raise StoreError(
            f"store {store!r}: {folder} has {key} {_short(found.get(key))}, not {_short(wanted.get(key))}",
            "build a new generation" if key not in ("format", "edge") else "install the version that wrote it",
        )


def _description(schema: CollectionSchema) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "edge": ".".join(version("qdrant-edge-py").split(".")[:2]),  # the folder's format follows the minor version
        "collection": schema.collection,
        "generation": schema.generation,
        "signals": sorted(schema.signals),
        "dense_dim": schema.dense_dim,
        "multi_dim": schema.multi_dim,
        "fields": {name: str(kind) for name, kind in sorted(schema.fields.items())},
        "keeps_text": schema.keeps_text,
        "encoder_fingerprint": schema.encoder_fingerprint,
    }


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _row_payload(chunk: Chunk, revision: int, schema: CollectionSchema) -> dict[str, Any]:
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


def _metadata_payload(metadata: Metadata, schema: CollectionSchema) -> dict[str, Any]:
    payload: dict[str, Any] = {
        _FIELDS: {name: stored_value(value) for name, value in metadata.items() if name in schema.fields}
    }
    if schema.keeps_text:
        payload["metadata"] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in metadata.items()
        }
    return payload


def _loaded(value: Any) -> MetadataValue:
    return tuple(value) if isinstance(value, list) else value
