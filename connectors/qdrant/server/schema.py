"""How one collection lies on a Qdrant server: vectors, indexes, points, and what its metadata say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from connectors.description import check_same, describe
from connectors.protocol import Capabilities, CollectionSchema, FieldType
from connectors.qdrant.payload import field_key, row_payload
from connectors.qdrant.server.decimals import short_decimals
from m3core.errors import StoreError
from m3core.types import Row, Signal

_META = "threefold"
# Version of what is written: payload keys, vector names, storage types.
FORMAT = 1
# The server refuses a row whose multi-vector has so many numbers in all.
_MULTI_NUMBERS = 1 << 20
_MOST_VECTORS = 8192
# KB of vectors in a segment from which on the server builds a graph; 0 stands for never.
_NEVER, _INDEXING_THRESHOLD = 0, 10_000
# Multi-vectors only score known ids: a graph of them would cost most of the load and answer nothing.
_NO_GRAPH = models.HnswConfigDiff(m=0)
_GRAPH = models.HnswConfigDiff(m=16, ef_construct=200)


def server_capabilities(schema: CollectionSchema) -> Capabilities:
    """Every signal. Dense candidates come from a graph; scores are of the stored vectors (16 bits)."""
    return Capabilities(
        signals=schema.signals,
        keeps_text=schema.keeps_text,
        fences=False,
        patches_in_place=True,
        exact=not schema.signals & {Signal.DENSE, Signal.MULTI},
        max_vectors_per_row=max(1, min(_MOST_VECTORS, (_MULTI_NUMBERS - 1) // max(1, schema.multi_dim))),
        embedded=False,
    )


def creation(schema: CollectionSchema, *, loading: bool) -> dict[str, Any]:
    """What a new collection is made of. While a generation loads that was never live, no graph is built."""
    vectors = {}
    if Signal.DENSE in schema.signals:
        vectors[Signal.DENSE.value] = models.VectorParams(
            size=schema.dense_dim,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,
            hnsw_config=_GRAPH,
            on_disk=True,
        )
    if Signal.MULTI in schema.signals:
        vectors[Signal.MULTI.value] = models.VectorParams(
            size=schema.multi_dim,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=_NO_GRAPH,
            on_disk=True,
        )
    sparse = {}
    if Signal.LEXICAL in schema.signals:
        sparse[Signal.LEXICAL.value] = models.SparseVectorParams(index=models.SparseIndexParams(on_disk=False))
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": sparse,
        "optimizers_config": indexing(loading=loading),
        "on_disk_payload": True,
        "metadata": {_META: describe(schema, FORMAT)},
    }


def indexing(*, loading: bool) -> models.OptimizersConfigDiff:
    """Whether the server builds graphs now."""
    return models.OptimizersConfigDiff(indexing_threshold=_NEVER if loading else _INDEXING_THRESHOLD)


def is_loading(info: models.CollectionInfo) -> bool:
    """Whether graphs are put off."""
    return info.config.optimizer_config.indexing_threshold == _NEVER


def payload_indexes(schema: CollectionSchema) -> dict[str, Any]:
    """Payload path -> index of everything that a filter can name: a server may refuse filters on other fields."""
    word = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)
    of: Mapping[FieldType, Any] = {
        FieldType.STRING: word,
        FieldType.STRINGS: word,
        FieldType.BOOLEAN: word,
        FieldType.INTEGER: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=True),
        FieldType.NUMBER: models.FloatIndexParams(type=models.FloatIndexType.FLOAT),
    }
    tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    indexes: dict[str, Any] = {"tenant": tenant, **dict.fromkeys(("acl", "doc_id", "language", "title"), word)}
    return indexes | {field_key(name): of[FieldType(kind)] for name, kind in sorted(schema.fields.items())}


def check_collection(info: models.CollectionInfo, schema: CollectionSchema, store: str, name: str) -> None:
    """Raise StoreError unless an existing collection was made by us for `schema` and keeps vectors as we need them."""
    found = (info.config.metadata or {}).get(_META)
    if not isinstance(found, dict):
        raise StoreError(
            f"store {store!r}: the collection {name} was not made by threefold",
            "set a prefix of its own for the store",
        )
    start = f"store {store!r}: {name}"
    check_same(found, describe(schema, FORMAT), start)
    check_same(_shape(info.config.params.vectors, info.config.params.sparse_vectors), _wanted_shape(schema), start)


def _wanted_shape(schema: CollectionSchema) -> dict[str, Any]:
    made = creation(schema, loading=False)
    return _shape(made["vectors_config"], made["sparse_vectors_config"])


def _shape(vectors: Any, sparse: Any) -> dict[str, Any]:
    """What decides scores, by vector name: width, distance, comparator, graph or none; a sparse one's modifier."""
    dense = vectors if isinstance(vectors, Mapping) else {}
    shape: dict[str, Any] = {}
    for name, params in dense.items():
        multi = params.multivector_config.comparator.value if params.multivector_config else None
        graph = params.hnsw_config is None or params.hnsw_config.m != 0
        shape[f"vector {name}"] = [params.size, params.distance.value, multi, "graph" if graph else "no graph"]
    for name, params in (sparse or {}).items():
        shape[f"vector {name}"] = ["sparse", str(params.modifier or "none")]
    return shape


def point_json(row: Row, schema: CollectionSchema) -> bytes:
    """The row as the server takes it, as UTF-8. A signal without a single token or vector is left out."""
    vectors: dict[str, Any] = {}
    if Signal.DENSE in schema.signals:
        vectors[Signal.DENSE.value] = short_decimals(row.vectors.dense).tolist()
    if Signal.MULTI in schema.signals and len(row.vectors.multi):
        vectors[Signal.MULTI.value] = short_decimals(row.vectors.multi).tolist()
    if Signal.LEXICAL in schema.signals and len(row.vectors.lexical_ids):
        vectors[Signal.LEXICAL.value] = {
            "indices": row.vectors.lexical_ids.tolist(),
            "values": row.vectors.lexical_weights.tolist(),
        }
    point = {"id": row.chunk.id, "vector": vectors, "payload": row_payload(row.chunk, row.revision, schema)}
    return _json(point)


def patch_json(chunk_id: str, payload: Mapping[str, Any]) -> bytes:
    """One operation of a batch: new payload keys of a row that is there."""
    return _json({"set_payload": {"payload": payload, "points": [chunk_id]}})


def id_json(chunk_id: str) -> bytes:
    """An id as a request names it."""
    return _json(chunk_id)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
