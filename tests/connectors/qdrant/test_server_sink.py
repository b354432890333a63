"""Writing to a Qdrant server: settings of a load, faults on the way, refused rows, what a collection says of itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from connectors.bulk.items import Budget
from connectors.protocol import Patch, StoreOptions
from connectors.qdrant.server import bulk as bulk_module
from connectors.qdrant.server import sink as sink_module
from connectors.qdrant.server.client import collection_name, open_client
from connectors.qdrant.server.decimals import short_decimals
from connectors.qdrant.server.schema import creation, payload_indexes, point_json, server_capabilities
from connectors.qdrant.server.sink import QdrantSink
from connectors.queries import payload_of
from m3core.errors import LockedError, StoreError
from m3core.types import Row, Signal
from tests.conformance.data import SCHEMA, make_query, make_rows, with_chunk
from tests.conformance.store import Store
from tests.servers.faults import Answer, Choose, Fault, Freeze, Reset, fault_proxy, no_fault
from tests.servers.running import Servers

pytestmark = pytest.mark.xdist_group("qdrant")


@pytest.fixture
def store(servers: Servers, tmp_path: Path) -> Iterator[Store]:
    servers.need("qdrant")
    opened = Store("qdrant", tmp_path / "vectors", SCHEMA)
    yield opened
    opened.close()


@pytest.fixture
def client(store: Store) -> Iterator[QdrantClient]:
    opened = open_client(store.options)
    yield opened
    opened.close()


def threshold(client: QdrantClient, store: Store) -> int | None:
    return client.get_collection(collection_name(store.options)).config.optimizer_config.indexing_threshold


def test_a_generation_that_was_never_live_is_indexed_after_it_was_loaded(store: Store, client: QdrantClient) -> None:
    sink = QdrantSink(replace(store.options, building=True))
    sink.ensure(SCHEMA)
    assert threshold(client, store) == 0
    sink.write(make_rows(5))
    sink.ensure(SCHEMA)  # the same run goes on
    assert threshold(client, store) == 0
    sink.finish_loading()
    assert threshold(client, store) == 10_000
    sink.finish_loading()
    sink.close()
    assert store.count() == 5


def test_settings_that_a_killed_load_left_are_mended_by_the_next_run(store: Store, client: QdrantClient) -> None:
    sink = QdrantSink(replace(store.options, building=True))
    sink.ensure(SCHEMA)
    sink.close()
    live = QdrantSink(store.options)
    live.ensure(SCHEMA)
    assert threshold(client, store) == 10_000
    live.close()


def test_a_live_generation_is_never_set_up_for_loading(store: Store, client: QdrantClient) -> None:
    store.write(make_rows(1))
    assert threshold(client, store) == 10_000


def test_every_field_that_a_filter_can_name_is_indexed_also_after_a_half_made_collection(
    store: Store, client: QdrantClient
) -> None:
    client.create_collection(collection_name(store.options), **creation(SCHEMA, loading=False))
    store.write(make_rows(1))
    found = client.get_collection(collection_name(store.options)).payload_schema
    assert found.keys() == payload_indexes(SCHEMA).keys()
    assert {"tenant", "acl", "title", 'fields."größe"'} <= found.keys()


def test_multi_vectors_have_no_graph_and_dense_ones_have(store: Store, client: QdrantClient) -> None:
    store.write(make_rows(1))
    vectors = client.get_collection(collection_name(store.options)).config.params.vectors
    assert isinstance(vectors, dict)
    multi, dense = vectors["multi"].hnsw_config, vectors["dense"].hnsw_config
    assert multi is not None
    assert dense is not None
    assert (multi.m, dense.m) == (0, 16)


def test_a_collection_of_somebody_else_is_refused(store: Store, client: QdrantClient) -> None:
    name = collection_name(store.options)
    client.create_collection(name, vectors_config={"dense": models.VectorParams(size=32, distance="Dot")})
    with pytest.raises(StoreError, match="was not made by threefold") as caught:
        store.sink()
    assert caught.value.remedy == "set a prefix of its own for the store"


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 33},
        {"distance": models.Distance.COSINE},
        {"hnsw_config": models.HnswConfigDiff(m=16)},
        {"multivector_config": None},
    ],
)
def test_vectors_that_would_score_otherwise_are_refused(
    store: Store, client: QdrantClient, changed: dict[str, object]
) -> None:
    made = creation(SCHEMA, loading=False)
    made["vectors_config"]["multi"] = made["vectors_config"]["multi"].model_copy(update=changed)
    client.create_collection(collection_name(store.options), **made)
    with pytest.raises(StoreError, match="has vector multi"):
        store.sink()


def test_a_build_of_another_format_is_refused(store: Store, client: QdrantClient) -> None:
    made = creation(SCHEMA, loading=False)
    made["metadata"]["threefold"]["format"] = 2
    client.create_collection(collection_name(store.options), **made)
    with pytest.raises(StoreError, match="has format 2, not 1") as caught:
        store.sink()
    assert "from the lake: m3 load" in caught.value.remedy


def test_the_lease_is_checked_before_everything_that_changes_something(store: Store) -> None:
    def lost() -> None:
        raise LockedError("lease lost", "end the run")

    sink = QdrantSink(replace(store.options, before_request=lost))
    with pytest.raises(LockedError):
        sink.ensure(SCHEMA)
    store.write(make_rows(2))
    sink.ensure(SCHEMA)  # nothing is missing, so nothing is changed
    row = make_rows(1)[0]
    for change in (
        lambda: sink.write([row]),
        lambda: sink.delete([row.chunk.id]),
        lambda: sink.patch([Patch(row.chunk.id, {}, ("board",), 2)]),
    ):
        with pytest.raises(LockedError):
            change()
    sink.close()


def test_requests_stay_within_their_budget_in_bytes_as_sent(servers: Servers, store: Store) -> None:
    wide = replace(SCHEMA, multi_dim=1024)
    rng = np.random.default_rng(0)
    rows = [
        replace(row, vectors=replace(row.vectors, multi=rng.standard_normal((700, 1024)).astype(np.float16)))
        for row in make_rows(5)
    ]
    sizes: list[int] = []
    with fault_proxy(store.options.connection.url, no_fault) as proxy:
        options = replace(store.options, schema=wide, connection=replace(store.options.connection, url=proxy.url))
        sink = QdrantSink(options)
        sink.ensure(wide)
        proxy.most_bytes = bulk_module.BUDGET.bytes + (1 << 10)
        assert sink.write(rows).acknowledged == 5
        sizes = [len(point_json(row, wide)) for row in rows]
        puts = [path for method, path, _ in proxy.requests if method == "PUT" and path.endswith("/points")]
        assert len(puts) >= sum(sizes) // bulk_module.BUDGET.bytes + 1 > 1
        sink.close()


def test_numbers_travel_short_and_arrive_as_they_were() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    sent = np.array(json.loads(json.dumps(short_decimals(every).tolist())), np.float64)
    # As a server does: decimal to float32, then to float16.
    assert (sent.astype(np.float32).astype(np.float16) == every).all()
    assert len(json.dumps(short_decimals(every).tolist())) < 0.7 * len(json.dumps(every.tolist()))


def test_as_many_vectors_as_the_server_takes_are_declared() -> None:
    assert server_capabilities(replace(SCHEMA, multi_dim=1024)).max_vectors_per_row == 1023
    assert server_capabilities(replace(SCHEMA, multi_dim=128)).max_vectors_per_row == 8191
    assert server_capabilities(replace(SCHEMA, multi_dim=64)).max_vectors_per_row == 8192


FAULTS: tuple[Fault, ...] = (
    Answer(429),
    Answer(429, retry_after=1),
    Answer(500),
    Answer(502),
    Answer(503),
    Reset("before"),
    Reset("after"),
    Reset("middle"),
    Freeze(2.5, forward=True),
    Freeze(2.5, forward=False),
)


def seeded(seed: int, often: float) -> Choose:
    """Faults of requests that change rows: each kind once, then by chance."""
    random = Random(seed)
    first = random.sample(FAULTS, len(FAULTS))

    def choose(method: str, path: str) -> Fault | None:
        if not path.endswith(("/points", "/points/delete", "/points/batch")) or random.random() >= often:
            return None
        return (first.pop() if first else random.choice(FAULTS)) if method == "PUT" or "points/" in path else None

    return choose


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_row_is_lost_doubled_or_old_whatever_fails(store: Store, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "BUDGET", Budget(bytes=60_000, rows=16))
    monkeypatch.setattr(sink_module, "PATIENCE_SECONDS", 900.0)
    monkeypatch.setattr("connectors.qdrant.server.client.REQUEST_SECONDS", 2)
    rows = make_rows(300, seed)
    store.write([replace(with_chunk(row, text="old"), revision=1) for row in rows[::3]])
    wanted = [replace(row, revision=2) for row in rows]
    with fault_proxy(store.options.connection.url, seeded(seed, 0.4)) as proxy:
        sink = QdrantSink(through(store, proxy.url))
        result = sink.write(wanted)
        assert (result.acknowledged, result.failures) == (len(rows), ())
        sink.patch([Patch(row.chunk.id, {"kind": "patched"}, ("staff",), 3) for row in rows[:60]])
        sink.delete([row.chunk.id for row in rows[250:]])
        sink.close()
        met = Counter(type(fault).__name__ for _, _, fault in proxy.requests if fault)
        assert met.keys() == {"Answer", "Reset", "Freeze"}
    patched = [replace(with_chunk(row, metadata={"kind": "patched"}, acl=("staff",)), revision=3) for row in rows[:60]]
    is_whole(store, [*patched, *wanted[60:250]])


def test_a_poison_row_is_the_only_one_that_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary word 4711"
    rows = [with_chunk(row, text=canary, metadata={"kind": canary}) for row in make_rows(40)]
    poison = rows[17]

    def spoiled(row: Row, schema: object) -> bytes:
        if row is not poison:
            return point_json(row, SCHEMA)
        return json.dumps({"id": row.chunk.id, "vector": {"dense": [1.0]}, "payload": {"text": canary}}).encode()

    monkeypatch.setattr(sink_module, "point_json", spoiled)
    result = store.write(rows)
    assert result.acknowledged == 39
    assert [(failure.id, failure.kind) for failure in result.failures] == [(poison.chunk.id, "permanent")]
    assert canary not in result.failures[0].reason
    is_whole(store, [row for row in rows if row is not poison])


def test_a_row_too_large_for_the_way_is_named_and_the_others_go_in(store: Store) -> None:
    """A proxy that takes no more than 60 KB, as gateways do."""
    rows = make_rows(12)
    large = with_chunk(rows[5], text="x" * 80_000)
    store.write([])
    with fault_proxy(store.options.connection.url) as proxy:
        proxy.most_bytes = 60_000
        sink = QdrantSink(through(store, proxy.url))
        result = sink.write([*rows[:5], large, *rows[6:]])
        sink.close()
    assert [(failure.id, failure.kind) for failure in result.failures] == [(large.chunk.id, "too-large")]
    is_whole(store, [*rows[:5], *rows[6:]])


def test_a_server_that_stays_down_ends_in_an_error_and_nothing_is_reported_as_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "PATIENCE_SECONDS", 1.0)
    store.write([])
    with fault_proxy(store.options.connection.url, lambda method, path: Reset("before")) as proxy:
        sink = QdrantSink(through(store, proxy.url))
        with pytest.raises(StoreError, match=r"store 'main' took no row for \d s \(\w+\); 30 wait"):
            sink.write(make_rows(30))
        assert store.count() == 0
        proxy.choose = no_fault
        assert sink.write(make_rows(30)).acknowledged == 30
        sink.close()
    is_whole(store, make_rows(30))


def test_a_key_that_loses_its_right_in_a_load_is_no_dead_letter(store: Store) -> None:
    store.write([])
    with fault_proxy(store.options.connection.url, lambda method, path: Answer(403)) as proxy:
        sink = QdrantSink(through(store, proxy.url))
        with pytest.raises(StoreError, match="refused our credentials"):
            sink.write(make_rows(3))
        sink.close()


def through(store: Store, url: str) -> StoreOptions:
    return replace(store.options, connection=replace(store.options.connection, url=url))


def is_whole(store: Store, rows: list[Row]) -> None:
    """Every row is there once, as it was written, and is found by its tokens."""
    assert store.listed() == sorted((row.chunk.id, row.revision) for row in rows)
    assert store.fetch([row.chunk.id for row in rows]) == {row.chunk.id: payload_of(row) for row in rows}
    hits = store.search(Signal.LEXICAL, make_query(0, tokens=80), limit=5000)
    assert {hit.id for hit in hits} == {row.chunk.id for row in rows}
