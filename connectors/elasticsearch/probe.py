"""At first contact: a scratch index proves that this server gives dot products, with nothing pruned.

A server that prunes query tokens, or keeps weights in another way, would answer every query a little wrong; it is
refused instead.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import numpy as np
from elasticsearch import Elasticsearch

from connectors.elasticsearch.schema import sparse_field
from connectors.elasticsearch.weights import rounded, token_weights
from connectors.protocol import StoreOptions
from m3core import scoring
from m3core.errors import StoreError
from m3core.types import Float32Array, UInt32Array

# Largest relative error of a score that nine bits explain.
TOLERANCE = 0.002
_ROWS = 31
_FREQUENT = 7
_PRUNE = False
_proven: set[tuple[str, str]] = set()


def prove(client: Elasticsearch, cluster: str, version: str, options: StoreOptions) -> None:
    """Probe a cluster once per process and version. Raises StoreError if a score is not the dot product."""
    if (cluster, version) in _proven:
        return
    options.before_request()
    index = f"{options.connection.prefix}m3_probe_{secrets.token_hex(8)}"
    properties = {"lexical": sparse_field(version)}
    client.indices.create(
        index=index,
        settings={"index.number_of_shards": 1, "index.number_of_replicas": 0},
        mappings={"dynamic": "strict", "properties": properties},
    )
    try:
        found = _scores(client, index)
    finally:
        client.indices.delete(index=index, ignore_unavailable=True)
    query = _query()
    for row in range(_ROWS):
        wanted, got = scoring.lexical(*query, *_row(row)), found.get(str(row), 0.0)
        if abs(got - wanted) > TOLERANCE * wanted:
            raise StoreError(
                f"store {options.name!r}: version {version} scored {got:.6g} where the dot product is {wanted:.6g}",
                "use a server whose sparse_vector keeps plain dot products, unpruned",
            )
    _proven.add((cluster, version))


def _row(number: int) -> tuple[UInt32Array, Float32Array]:
    """A frequent token that every row has, and one that only this row has."""
    return np.array([_FREQUENT, 1000 + number], np.uint32), np.array([0.321 + number / 97, 0.777], np.float32)


def _query() -> tuple[UInt32Array, Float32Array]:
    """The frequent token with little weight, which is what servers prune by default, and two rare ones."""
    return np.array([_FREQUENT, 1003, 1011], np.uint32), np.array([0.11, 0.9, 0.53], np.float32)


def _scores(client: Elasticsearch, index: str) -> dict[str, float]:
    lines: list[Any] = []
    for number in range(_ROWS):
        ids, weights = _row(number)
        lines.append(json.dumps({"index": {"_id": str(number)}}).encode())
        lines.append(json.dumps({"lexical": token_weights(ids, rounded(weights))}).encode())
    answer = client.bulk(index=index, operations=lines, refresh=True)
    if answer["errors"]:
        return {}
    query = {"sparse_vector": {"field": "lexical", "query_vector": token_weights(*_query()), "prune": _PRUNE}}
    hits = client.search(index=index, query=query, size=_ROWS, source=False)["hits"]["hits"]
    return {hit["_id"]: float(hit["_score"]) for hit in hits}
