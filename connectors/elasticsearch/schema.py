"""How one collection lies in an Elasticsearch index: mapping, settings, documents, and what the mapping says of itself.

id         keyword copy of _id: scans and ties are sorted by it (sorting on _id itself is refused)
revision   the run that wrote the row; also the document's external version
lexical    sparse_vector, weights rounded to 9 bits, nothing pruned; not in _source
weights    the exact weights, not indexed; scores come from them
tenant, acl, doc_id, language, title, fields.*    what filters name
payload    the row as it was written, not indexed; only where the store keeps the text
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from connectors.description import check_same, describe
from connectors.elasticsearch.filters import indexed_value
from connectors.elasticsearch.weights import packed, rounded, token_weights, unpacked
from connectors.payloads import chunk_values, payload_from
from connectors.protocol import Capabilities, CollectionSchema, FieldType, Patch, Payload
from m3core.errors import StoreError
from m3core.types import Metadata, MetadataValue, Row, Signal

# Version of what this module writes.
FORMAT = 1
# Tokens of a query that bring candidates: a boolean query takes at least 1,024 clauses, the filter's among them.
MAX_QUERY_TOKENS = 1000
_META = "threefold"
_KEYWORD = {"type": "keyword"}
_TYPES: Mapping[FieldType, Mapping[str, Any]] = {
    FieldType.STRING: _KEYWORD,
    FieldType.STRINGS: _KEYWORD,
    FieldType.INTEGER: {"type": "long"},
    FieldType.NUMBER: {"type": "double"},
    FieldType.BOOLEAN: {"type": "boolean"},
}
# A generation that was never searched is loaded without refreshing and without replicas.
LOADING_SETTINGS: Mapping[str, Any] = {"index.refresh_interval": "-1", "index.number_of_replicas": 0}
SEARCHING_SETTINGS: Mapping[str, Any] = dict.fromkeys(LOADING_SETTINGS)


def es_capabilities(schema: CollectionSchema) -> Capabilities:
    """Lexical weights and the text. Candidates come from rounded weights, every score from the exact ones."""
    return Capabilities(
        signals=schema.signals & {Signal.LEXICAL},
        keeps_text=schema.keeps_text,
        fences=True,
        patches_in_place=True,
        exact=True,
        max_vectors_per_row=1 << 20,
        embedded=False,
        max_query_tokens=MAX_QUERY_TOKENS,
    )


def sparse_field(version: str) -> dict[str, Any]:
    """The lexical field. Servers from 8.19 and 9.1 prune the tokens of every query unless they are told not to."""
    major, minor = (int(part) for part in version.split(".")[:2])
    pruning = (major, minor) >= (9, 1) or (major == 8 and minor >= 19)
    return {"type": "sparse_vector"} | ({"index_options": {"prune": False}} if pruning else {})


def index_body(schema: CollectionSchema, version: str, *, loading: bool) -> dict[str, Any]:
    """Settings and mappings of a new index. A stale write after a delete is refused for an hour (`gc_deletes`)."""
    settings = {"index.gc_deletes": "1h", **(LOADING_SETTINGS if loading else {})}
    properties: dict[str, Any] = {
        **dict.fromkeys(("id", "tenant", "acl", "doc_id", "language", "title"), _KEYWORD),
        "revision": {"type": "long"},
        "fields": {
            "dynamic": "strict",
            "properties": {name: _TYPES[FieldType(kind)] for name, kind in sorted(schema.fields.items())},
        },
        "payload": {"type": "object", "enabled": False},
    }
    if Signal.LEXICAL in schema.signals:
        properties |= {"lexical": sparse_field(version), "weights": {"type": "binary"}}
    mappings = {
        "dynamic": "strict",
        "_meta": {_META: describe(schema, FORMAT)},
        "_source": {"excludes": ["lexical"]},
        "properties": properties,
    }
    return {"settings": settings, "mappings": mappings}


def check_mapping(mapping: Mapping[str, Any], schema: CollectionSchema, store: str, index: str) -> None:
    """Raise StoreError unless an existing index was made by this module for `schema`, and prunes nothing."""
    found = mapping.get("_meta", {}).get(_META)
    if not isinstance(found, dict):
        raise StoreError(
            f"store {store!r}: the index {index} was not made by threefold", "set a prefix of its own for the store"
        )
    check_same(found, describe(schema, FORMAT), f"store {store!r}: {index}")
    sparse = mapping.get("properties", {}).get("lexical", {})
    lexical = Signal.LEXICAL in schema.signals
    if lexical and (sparse.get("type") != "sparse_vector" or sparse.get("index_options", {}).get("prune", False)):
        raise StoreError(f"store {store!r}: {index} has another mapping for lexical weights", "build a new generation")


def document_of(row: Row, schema: CollectionSchema) -> dict[str, Any]:
    """The row as a whole document."""
    chunk, vectors = row.chunk, row.vectors
    document: dict[str, Any] = {"id": chunk.id, "tenant": chunk.tenant, "doc_id": chunk.doc_id}
    document = {name: indexed_value(value) for name, value in document.items()}
    # An empty title or language counts as absent in filters, so it is absent.
    document |= {
        name: indexed_value(value) for name, value in (("title", chunk.title), ("language", chunk.language)) if value
    }
    if Signal.LEXICAL in schema.signals:
        document["weights"] = packed(vectors.lexical_ids, vectors.lexical_weights)
        document["lexical"] = token_weights(vectors.lexical_ids, rounded(vectors.lexical_weights))
    if schema.keeps_text:
        document["payload"] = chunk_values(chunk)
    return _with_metadata(document, chunk.metadata, chunk.acl, row.revision, schema)


def patched(source: Mapping[str, Any], patch: Patch, schema: CollectionSchema) -> dict[str, Any]:
    """The whole document of a stored row with a patch's metadata and acl. `source` is the stored `_source`.

    It has no sparse_vector: that is made anew from the exact weights.
    """
    document = dict(source)
    if Signal.LEXICAL in schema.signals:
        ids, weights = unpacked(document["weights"])
        document["lexical"] = token_weights(ids, rounded(weights))
    return _with_metadata(document, patch.metadata, patch.acl, patch.revision, schema)


def payload_of(chunk_id: str, source: Mapping[str, Any]) -> Payload:
    """The stored row back as it was written."""
    payload = source["payload"]
    return payload_from(chunk_id, payload, json.loads(payload["metadata"]), source["revision"])


def _with_metadata(
    document: dict[str, Any], metadata: Metadata, acl: tuple[str, ...], revision: int, schema: CollectionSchema
) -> dict[str, Any]:
    document["revision"] = revision
    document["acl"] = [indexed_value(principal) for principal in acl]
    document["fields"] = {name: _indexed(value) for name, value in metadata.items() if name in schema.fields}
    if schema.keeps_text:
        # As text: the server would not keep 2.0 and 2 apart, nor odd names.
        kept = json.dumps(dict(metadata), ensure_ascii=False)
        document["payload"] = {**document["payload"], "acl": list(acl), "metadata": kept}
    return document


def _indexed(value: MetadataValue) -> Any:
    return [indexed_value(part) for part in value] if isinstance(value, tuple) else indexed_value(value)
