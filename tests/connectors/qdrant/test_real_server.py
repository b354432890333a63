"""What only a real server can show: after a load its searches find what a scan would, through graphs if it has them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import models

from connectors.protocol import LoadingSink
from connectors.qdrant.server.client import collection_name, open_client
from connectors.registry import open_sink
from m3core.types import ChunkVectors, QueryVectors, Signal
from tests.conformance.data import SCHEMA, make_rows, unit
from tests.conformance.store import Store
from tests.servers.running import Servers

pytestmark = [
    pytest.mark.xdist_group("qdrant"),
    pytest.mark.skipif(
        not os.environ.get("QDRANT_URL"),
        reason="QDRANT_URL names no Qdrant server; the conformance suite ran on a stand-in",
    ),
]
ROWS, WIDTH, QUERIES = 20_000, 512, 50


@pytest.fixture
def loaded(
    servers: Servers, tmp_path: Path
) -> Iterator[tuple[Store, np.ndarray[tuple[int, int], np.dtype[np.float16]]]]:
    """20,000 dense rows, loaded as a new generation is."""
    servers.need("qdrant")
    store = Store("qdrant", tmp_path, replace(SCHEMA, dense_dim=WIDTH, signals=frozenset({Signal.DENSE})))
    rng = np.random.default_rng(0)
    vectors = unit(rng, ROWS, WIDTH).astype(np.float16)
    nothing = np.empty(0, np.uint32), np.empty(0, np.float32), np.empty((0, 8), np.float16)
    sink = open_sink("qdrant", replace(store.options, building=True))
    assert isinstance(sink, LoadingSink)
    sink.ensure(store.schema)
    rows = [replace(row, vectors=ChunkVectors(vectors[i], *nothing)) for i, row in enumerate(make_rows(ROWS))]
    assert sink.write(rows).acknowledged == ROWS
    sink.finish_loading()
    sink.close()
    yield store, vectors
    store.close()


def test_ten_best_are_those_of_a_scan(
    loaded: tuple[Store, np.ndarray[tuple[int, int], np.dtype[np.float16]]],
) -> None:
    store, vectors = loaded
    client = open_client(store.options)
    deadline = time.monotonic() + 300
    while client.get_collection(collection_name(store.options)).status is not models.CollectionStatus.GREEN:
        assert time.monotonic() < deadline, "the server still optimises 300 s after finish_loading"
        time.sleep(1)
    client.close()
    ids = [row.chunk.id for row in make_rows(ROWS)]
    found = 0
    for query in unit(np.random.default_rng(1), QUERIES, WIDTH):
        exact = np.argsort(-(vectors.astype(np.float32) @ query))[:10]
        hits = store.search(Signal.DENSE, QueryVectors(query, None, None, None), limit=10)
        found += len({hit.id for hit in hits} & {ids[place] for place in exact})
    assert found / (10 * QUERIES) >= 0.99
