"""Arrays of structs, as servers of 2.6.4 and newer keep them: on the contract server of the tests, through the real
client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from connectors.bulk.backoff import Backoff
from connectors.milvus import making as making_module
from connectors.milvus import sink as sink_module
from connectors.milvus.client import collection_name
from connectors.milvus.schema import MAX_VECTORS, Column, Layout, collections_of
from connectors.milvus.sink import MilvusSink
from connectors.milvus.structs import structs, vectors_of
from connectors.protocol import Connection, Patch
from connectors.queries import payload_of
from m3core.errors import ConfigError, StoreError
from m3core.types import Row, Signal
from tests.conformance.data import MULTI_DIM, SCHEMA, make_query, make_rows, row_id, with_chunk
from tests.conformance.store import Store
from tests.servers.certificates import self_signed
from tests.servers.contract.server import Contract, contract_server
from tests.servers.missing import MissingPartError, skip_or_fail

pytestmark = pytest.mark.xdist_group("milvus-contract")

CANARY = "canary-4711-secret"


class On(Store):
    """A store on a contract server of the test's own."""

    def __init__(self, root: Path, connection: Connection, **changes: Any) -> None:
        super().__init__("milvus", root, replace(Store.of("milvus", root).schema, **changes))
        self.connection = connection

    @property
    def options(self) -> Any:
        return replace(super().options, connection=self.connection)


@pytest.fixture
def server() -> Iterator[Contract]:
    with contract_server() as running:
        yield running


@pytest.fixture
def store(server: Contract, tmp_path: Path) -> Iterator[On]:
    opened = On(tmp_path / "tokens", Connection(server.url))
    yield opened
    opened.close()


@pytest.fixture
def oracle(tmp_path: Path) -> Iterator[Store]:
    opened = Store.of("memory", tmp_path / "oracle")
    yield opened
    opened.close()


def with_vectors(row: Row, count: int) -> Row:
    vectors = np.random.default_rng(count).standard_normal((count, MULTI_DIM)).astype(np.float16)
    return replace(row, vectors=replace(row.vectors, multi=vectors))


def test_the_server_has_the_array_as_it_was_asked_for(store: On, server: Contract) -> None:
    store.write([])
    client = MilvusClient(server.url, timeout=60, dedicated=True)
    try:
        found = {field["name"]: field for field in client.describe_collection(collection_name(store.options))["fields"]}
        assert found["multi"]["element_type"] is DataType.STRUCT
        assert int(found["multi"]["params"]["max_capacity"]) == MAX_VECTORS == 4096
        [each] = found["multi"]["struct_fields"]
        assert (each["name"], each["type"], each["params"]) == (
            "vector",
            DataType.FLOAT16_VECTOR,
            {"dim": MULTI_DIM},
        )
        assert client.list_collections() == [collection_name(store.options)]  # none of parts
    finally:
        client.close()


def test_an_array_that_the_server_dropped_silently_is_an_error(store: On, monkeypatch: pytest.MonkeyPatch) -> None:
    make = making_module.milvus_schema

    def forgetful(wanted: Any, says: str) -> Any:
        return make(replace(wanted, columns=tuple(each for each in wanted.columns if each.name != "multi")), says)

    monkeypatch.setattr(making_module, "milvus_schema", forgetful)
    expected = r"has for column multi nothing, not ARRAY\(4096\) of vector FLOAT16_VECTOR\(64\)"
    with pytest.raises(StoreError, match=expected) as caught:
        store.sink()
    assert "the server does not support it" in caught.value.remedy


def test_an_array_of_another_width_is_an_error(store: On, monkeypatch: pytest.MonkeyPatch) -> None:
    make = making_module.milvus_schema

    def narrow(wanted: Any, says: str) -> Any:
        def of(column: Column) -> Column:
            return replace(column, of=tuple(replace(each, size=8) for each in column.of))

        return make(replace(wanted, columns=tuple(map(of, wanted.columns))), says)

    monkeypatch.setattr(making_module, "milvus_schema", narrow)
    with pytest.raises(StoreError, match=r"of vector FLOAT16_VECTOR\(8\), not ARRAY\(4096\)"):
        store.sink()


def test_scores_are_means_whatever_the_number_of_query_vectors(store: On, oracle: Store) -> None:
    rows = make_rows(30)
    store.write(rows)
    oracle.write(rows)
    for tokens in (1, 2, 17, 80):
        query = make_query(tokens, tokens)
        expected = oracle.search(Signal.MULTI, query, limit=30)
        found = store.search(Signal.MULTI, query, limit=30)
        assert {hit.id: hit.score for hit in found} == pytest.approx(
            {hit.id: hit.score for hit in expected}, abs=2.5e-4
        )


def test_rows_that_the_graph_overlooks_are_scored_all_the_same(store: On, server: Contract, oracle: Store) -> None:
    rows = [*make_rows(20), with_vectors(make_row(50), 900), with_vectors(make_row(51), 0)]
    store.write(rows)
    oracle.write(rows)
    query, ids = make_query(3), [row.chunk.id for row in rows]
    everything = store.score(Signal.MULTI, query, ids)
    server.overlooked = set(ids[::2])
    assert len(store.search(Signal.MULTI, query, limit=30)) < len(rows) // 2 + 1
    found = store.score(Signal.MULTI, query, [*ids, row_id(999)])
    assert found.keys() == set(ids)
    # Whoever computes it, it is the same number.
    assert found == pytest.approx(everything, abs=1e-6)
    assert found == pytest.approx(oracle.score(Signal.MULTI, query, ids), abs=2.5e-4)


def make_row(number: int) -> Row:
    return make_rows(1, first=number)[0]


def test_a_row_without_vectors_is_no_hit_and_scores_zero(store: On) -> None:
    rows = [make_row(1), with_vectors(make_row(2), 0)]
    store.write(rows)
    query = make_query(0)
    assert [hit.id for hit in store.search(Signal.MULTI, query)] == [rows[0].chunk.id]
    assert store.score(Signal.MULTI, query, [rows[1].chunk.id]) == {rows[1].chunk.id: 0.0}


def test_a_patch_leaves_the_vectors_bit_by_bit(store: On, server: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_READ_BYTES", 2 * 2 * MAX_VECTORS * MULTI_DIM)  # two rows in one answer
    rows = [*make_rows(5), with_vectors(make_row(50), 0), with_vectors(make_row(51), MAX_VECTORS)]
    store.write(rows)
    kept = server.collections[collection_name(store.options)].rows
    before = {chunk_id: row["multi"].copy() for chunk_id, row in kept.items()}
    store.change(lambda sink: sink.patch([Patch(row.chunk.id, {"kind": "new"}, ("staff",), 2) for row in rows]))
    assert store.listed() == sorted((row.chunk.id, 2) for row in rows)
    for row in rows:
        assert np.array_equal(kept[row.chunk.id]["multi"], before[row.chunk.id])
        changed = replace(with_chunk(row, metadata={"kind": "new"}, acl=("staff",)), revision=2)
        assert store.fetch([row.chunk.id]) == {row.chunk.id: payload_of(changed)}


def test_the_longest_array_goes_in_and_a_longer_one_is_named(store: On, oracle: Store) -> None:
    longest, longer = with_vectors(make_row(1), MAX_VECTORS), with_vectors(make_row(2), MAX_VECTORS + 1)
    result = store.write([longest, longer])
    assert [(failure.id, failure.kind) for failure in result.failures] == [(longer.chunk.id, "too-large")]
    assert "4097 vectors" in result.failures[0].reason
    oracle.write([longest])
    query = make_query(1)
    ids = [longest.chunk.id]
    # Vectors of norm 8: so is the error.
    assert store.score(Signal.MULTI, query, ids) == pytest.approx(oracle.score(Signal.MULTI, query, ids), abs=2e-3)


def test_a_collection_of_the_other_layout_is_refused(store: On, server: Contract, tmp_path: Path) -> None:
    """A server that was taken for Milvus Lite when the collection was made."""
    server.version = "milvus_lite-3.2.2"
    store.write(make_rows(1))
    store.close()
    server.version = "v2.6.4"
    with pytest.raises(StoreError, match="has format 1, not 2"):
        store.sink()


def test_structs_and_vectors_are_inverse() -> None:
    for count in (0, 1, 7):
        vectors = np.random.default_rng(count).standard_normal((count, 5)).astype(np.float16)
        value = [{"vector": list(np.frombuffer(each["vector"], np.float16))} for each in structs(vectors)]
        assert np.array_equal(vectors_of("x", count, 5, value), vectors)
        for wrong in (value + value, [{"vector": [np.float16(1)] * 4}] * max(1, count)):
            with pytest.raises(StoreError, match="row x are not whole"):
                vectors_of("x", count, 5, wrong)


def test_every_row_goes_in_once_whatever_the_server_answers(
    store: On, server: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate limits, lost connections and messages that are too large, before and after an upsert was carried out."""
    monkeypatch.setattr(Backoff, "wait", lambda self, retry_after=0.0: 0.0)
    faults: list[grpc.StatusCode | int | None] = [
        8,
        grpc.StatusCode.UNAVAILABLE,
        None,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        8,
        None,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        None,
    ]
    store.write([])
    server.fault = lambda method: faults.pop(0) if method == "Upsert" and faults else None
    rows = make_rows(60)
    assert store.write(rows).acknowledged == 60
    assert faults == []
    assert store.fetch([row.chunk.id for row in rows]) == {row.chunk.id: payload_of(row) for row in rows}


def test_a_row_that_the_server_refuses_is_named_and_the_others_go_in(
    store: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(6)
    make = sink_module.record_of

    def spoiled(row: Row, *args: Any) -> Any:
        record = make(row, *args)
        return {**record, "multi": record["multi"] * 4096} if row.chunk.id == rows[3].chunk.id else record

    monkeypatch.setattr(sink_module, "record_of", spoiled)
    result = store.write(rows)
    assert result.acknowledged == 5
    assert [(failure.id, failure.kind) for failure in result.failures] == [(rows[3].chunk.id, "permanent")]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Contract, str]]:
    """A server behind TLS that asks for a token, and the file of its certificate."""
    try:
        chain, key = self_signed(tmp_path)
    except MissingPartError as missing:
        skip_or_fail(missing)
    with contract_server(CANARY, (chain, key)) as running:
        yield running, chain


def test_a_token_over_tls_lets_in_and_nothing_else_does(
    secured: tuple[Contract, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, chain = secured
    monkeypatch.setenv("RIGHT", CANARY)
    monkeypatch.setenv("WRONG", f"wrong-{CANARY}")
    good = Connection(server.url, api_key="env:RIGHT", ca=chain)
    opened = On(tmp_path / "store", good)
    opened.write(make_rows(3))
    assert len(opened.search(Signal.MULTI, make_query(0))) == 3
    opened.close()
    bad = [
        (replace(good, api_key="env:WRONG"), StoreError, "refused our credentials"),
        (replace(good, api_key=""), StoreError, "refused our credentials"),
        (replace(good, ca=""), StoreError, "cannot be reached"),
        (replace(good, api_key="env:GONE"), ConfigError, "'GONE' is not set"),
    ]
    for connection, kind, message in bad:
        sink = MilvusSink(replace(opened.options, connection=connection))
        with pytest.raises(kind, match=message) as caught:
            sink.count()
        assert CANARY not in f"{caught.value}{caught.value!r}{connection!r}{sink!r}"
        sink.close()


def test_only_what_lies_there_is_asked_for() -> None:
    """Columns and indexes by layout and signals."""
    multi = replace(SCHEMA, signals=frozenset((Signal.MULTI,)))
    [alone] = collections_of(multi, "x", Layout.STRUCTS)
    assert [index.column for index in alone.indexes] == ["unused", "multi[vector]"]
    assert [index.name for index in alone.indexes] == ["unused", "multi_vector"]
    assert [each.name for each in collections_of(multi, "x", Layout.PACKED)] == ["x", "x_parts"]
    [dense] = collections_of(replace(SCHEMA, signals=frozenset((Signal.DENSE,))), "x", Layout.STRUCTS)
    assert [index.column for index in dense.indexes] == ["dense"]
