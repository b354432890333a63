"""How one collection lies in an Edge shard: vectors, indexes, payload, and the description kept beside it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from connectors.description import check_same, describe
from connectors.protocol import Capabilities, CollectionSchema, FieldType, Patch
from connectors.qdrant.edge.access import ACCESS, access_keys
from connectors.qdrant.payload import field_key, patch_payload, row_payload
from connectors.snapshots.disk import write_text
from m3core.errors import StoreError
from m3core.types import Row, Signal

DESCRIPTION_FILE = "schema.json"
SHARD_FOLDER = "shard"
# Nearly all bytes of a shard. Edge opens some of these for writing, and writes to none unless rows change.
READ_ONLY_FILES = ("chunk_*.mmap", "page_*.dat", "matrix.dat", "inverted_index.dat")
# Version of what is written: payload keys, vector names, storage types. 2: the payload key `access`.
FORMAT = 2

# m = 0: no graph. Multi-vectors only score known ids; dense vectors are scanned, exactly (figures in the README).
_NO_GRAPH = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000)


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
        shares_files=True,
    )


def vacuum(*, always: bool) -> edge.EdgeOptimizersConfig:
    """When optimizing writes a segment anew because of deleted rows: for a single one, or at Edge's own thresholds."""
    threshold, rows = (0.0, 0) if always else (0.2, 1000)
    return edge.EdgeOptimizersConfig(deleted_threshold=threshold, vacuum_min_vector_number=rows)


def shard_config(schema: CollectionSchema, optimizers: edge.EdgeOptimizersConfig | None = None) -> edge.EdgeConfig:
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
    return edge.EdgeConfig(
        vectors=vectors, sparse_vectors=sparse, payload_memory=cold, wal_enabled=False, optimizers=optimizers
    )


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
    operations = [create(key, keyword) for key in (ACCESS, "tenant", "acl", "doc_id", "language")]
    operations += [create(field_key(name), params[FieldType(kind)]) for name, kind in sorted(schema.fields.items())]
    return operations


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
    payload = row_payload(row.chunk, row.revision, schema)
    return edge.Point(row.chunk.id, vectors, payload | {ACCESS: access_keys(row.chunk.tenant, row.chunk.acl)})


def patched_payload(patch: Patch, tenant: str, schema: CollectionSchema) -> dict[str, Any]:
    """The payload keys that a patch of a row of `tenant` replaces."""
    return patch_payload(patch, schema) | {ACCESS: access_keys(tenant, patch.acl)}


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
    check_same(found, _description(schema), f"store {store!r}: {folder}")


def _description(schema: CollectionSchema) -> dict[str, Any]:
    # The folder's format follows the minor version.
    return {**describe(schema, FORMAT), "edge": ".".join(version("qdrant-edge-py").split(".")[:2])}
