"""The writing side beyond the conformance suite: what collections are made, others' collections, parts, pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from connectors.bulk.items import Budget
from connectors.milvus import making as making_module
from connectors.milvus import multi as multi_module
from connectors.milvus import reading as reading_module
from connectors.milvus import sink as sink_module
from connectors.milvus.client import collection_name
from connectors.milvus.schema import LONGEST, MAX_VECTORS, parts_name
from connectors.milvus.sink import MilvusSink
from connectors.protocol import LoadingSink, Patch
from connectors.queries import payload_of
from m3core.errors import LockedError, StoreError
from m3core.types import Signal
from tests.conformance.data import MULTI_DIM, SCHEMA, make_query, make_rows, unit, with_chunk
from tests.conformance.store import Store

pytestmark = pytest.mark.xdist_group("milvus")


@pytest.fixture
def client(server: str) -> Iterator[MilvusClient]:
    """A client of our own, to look at what the store made."""
    opened = MilvusClient(server, timeout=60, dedicated=True)
    yield opened
    opened.close()


def main_of(store: Store) -> str:
    return collection_name(store.options)


@pytest.fixture
def oracle(tmp_path: Path) -> Iterator[Store]:
    """The exact store in memory."""
    opened = Store.of("memory", tmp_path / "oracle")
    yield opened
    opened.close()


def ids_in(client: MilvusClient, collection: str) -> set[str]:
    return {row["id"] for row in client.query(collection, filter='id != ""', output_fields=["id"], timeout=60)}


SUBSETS = [{Signal.MULTI}, {Signal.LEXICAL}, {Signal.DENSE, Signal.MULTI}, {Signal.LEXICAL, Signal.MULTI}]


@pytest.mark.parametrize("signals", SUBSETS, ids=lambda signals: "-".join(sorted(signals)))
@pytest.mark.parametrize("keeps_text", [True, False])
def test_any_signals_may_lie_here_with_or_without_the_text(
    store: Store, oracle: Store, signals: set[Signal], keeps_text: bool
) -> None:
    some = Store.of("milvus", store.root, signals=frozenset(signals), keeps_text=keeps_text)
    rows = make_rows(12)
    assert some.write(rows).acknowledged == 12
    assert some.listed() == sorted((row.chunk.id, 1) for row in rows)
    query = make_query(0, tokens=80)
    oracle.write(rows)
    for signal in signals:
        expected = oracle.search(signal, query, limit=20)
        found = some.search(signal, query, limit=20)
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    some.change(lambda sink: sink.patch([Patch(rows[0].chunk.id, {"kind": "new"}, ("staff",), 2)]))
    some.change(lambda sink: sink.delete([rows[1].chunk.id]))
    assert len(some.listed()) == 11
    some.close()


def test_the_server_has_every_column_as_it_was_asked_for(store: Store, client: MilvusClient) -> None:
    store.write([])
    found = {field["name"]: field for field in client.describe_collection(main_of(store))["fields"]}
    assert found["id"]["type"] is DataType.VARCHAR
    assert found["id"]["is_primary"]
    assert found["dense"]["params"] == {"dim": SCHEMA.dense_dim}
    assert found["lexical"]["type"] is DataType.SPARSE_FLOAT_VECTOR
    assert {f"f{place}" for place in range(len(SCHEMA.fields))} < found.keys()
    assert not {"kind", "größe", "tags"} & found.keys()


def test_a_column_that_the_server_dropped_silently_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milvus Lite does so with types that it lacks."""
    make = making_module.milvus_schema

    def forgetful(wanted: Any, says: str) -> Any:
        columns = tuple(column for column in wanted.columns if column.name != "revision")
        return make(replace(wanted, columns=columns), says)

    monkeypatch.setattr(making_module, "milvus_schema", forgetful)
    with pytest.raises(StoreError, match="has for column revision nothing, not INT64"):
        store.sink()


def test_looking_changes_nothing(store: Store, client: MilvusClient) -> None:
    with closing(MilvusSink(store.options)) as sink:
        assert not sink.verify()
        assert sink.facts().version[0].isdigit()
        assert not client.has_collection(main_of(store), timeout=60)
        store.write([])
        assert sink.verify()
    other = Store.of("milvus", store.root, multi_dim=9)
    with closing(MilvusSink(other.options)) as sink, pytest.raises(StoreError, match="has multi_dim 64, not 9"):
        sink.verify()


def test_a_collection_of_somebody_else_is_left_alone(store: Store, client: MilvusClient) -> None:
    client.create_collection(main_of(store), dimension=4, timeout=60)
    with pytest.raises(StoreError, match="was not made by threefold") as caught:
        store.sink()
    assert "prefix" in caught.value.remedy


def test_a_run_that_was_killed_between_two_steps_of_making_the_collections_is_gone_on_with(
    store: Store, client: MilvusClient
) -> None:
    store.write(make_rows(2))
    store.close()
    client.drop_collection(parts_name(main_of(store)), timeout=60)
    with (
        closing(MilvusSink(store.options)) as sink,
        pytest.raises(StoreError, match="is there, and its multi-vectors are not"),
    ):
        sink.verify()
    client.release_collection(main_of(store), timeout=60)
    client.drop_index(main_of(store), "dense", timeout=60)
    store.write(make_rows(3))
    assert len(store.search(Signal.DENSE, make_query(0))) == 3
    assert len(store.search(Signal.MULTI, make_query(0))) == 3


def test_a_row_of_many_parts_is_read_back_whole_and_leaves_nothing(
    store: Store, oracle: Store, client: MilvusClient
) -> None:
    rng = np.random.default_rng(5)
    rows = [
        replace(row, vectors=replace(row.vectors, multi=unit(rng, count, MULTI_DIM).astype(np.float16)))
        for row, count in zip(make_rows(3), (MAX_VECTORS, 1, 900), strict=True)
    ]
    store.write(rows)
    parts = parts_name(main_of(store))
    assert len(ids_in(client, parts)) == 11 + 1 + 3
    oracle.write(rows)
    query, ids = make_query(2), [row.chunk.id for row in rows]
    assert store.score(Signal.MULTI, query, ids) == pytest.approx(oracle.score(Signal.MULTI, query, ids), abs=1e-6)
    shorter = replace(rows[0], vectors=replace(rows[0].vectors, multi=rows[0].vectors.multi[:5]), revision=2)
    store.write([shorter])
    oracle.write([shorter])
    assert store.score(Signal.MULTI, query, ids) == pytest.approx(oracle.score(Signal.MULTI, query, ids), abs=1e-6)
    store.change(lambda sink: sink.delete([rows[0].chunk.id, rows[1].chunk.id]))
    assert {part.partition("/")[0] for part in ids_in(client, parts)} == {rows[2].chunk.id}


def test_a_lost_part_is_an_error_and_writing_the_row_again_mends_it(store: Store, client: MilvusClient) -> None:
    rows = make_rows(4)
    store.write(rows)
    client.delete(parts_name(main_of(store)), ids=[f"{rows[1].chunk.id}/0"], timeout=60)
    with pytest.raises(StoreError, match=f"row {rows[1].chunk.id} are not whole"):
        store.score(Signal.MULTI, make_query(0), [row.chunk.id for row in rows])
    store.write([rows[1]])
    assert len(store.score(Signal.MULTI, make_query(0), [row.chunk.id for row in rows])) == 4


def test_more_than_milvus_keeps_in_a_column_is_a_failure_and_the_others_go_in(store: Store) -> None:
    rows = make_rows(4)
    noise = "".join(map(chr, np.random.default_rng(0).integers(0x4E00, 0x9FFF, 40_000)))
    large = with_chunk(rows[1], text=noise)
    many = with_chunk(rows[2], acl=tuple(f"group-{number}" for number in range(2000)))
    result = store.write([rows[0], large, many, rows[3]])
    assert result.acknowledged == 2
    assert [(failure.id, failure.kind) for failure in result.failures] == [
        (large.chunk.id, "too-large"),
        (many.chunk.id, "too-large"),
    ]
    assert f"column acl would take 65999 bytes; Milvus keeps at most {LONGEST}" in result.failures[1].reason
    assert noise[:20] not in str(result.failures)
    assert store.listed() == sorted((row.chunk.id, 1) for row in (rows[0], rows[3]))
    # A long text that compresses is no problem.
    store.write([with_chunk(rows[1], text="again and again " * 20_000)])
    assert store.fetch([rows[1].chunk.id])[rows[1].chunk.id].text == "again and again " * 20_000
    with pytest.raises(StoreError, match=f"patch of {rows[0].chunk.id}: column acl would take"):
        store.change(lambda sink: sink.patch([Patch(rows[0].chunk.id, {}, many.chunk.acl, 2)]))


def test_everything_goes_on_beyond_one_page_and_one_request(
    store: Store, oracle: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_PAGE", 7)
    monkeypatch.setattr(sink_module, "_READ_BATCH", 5)
    monkeypatch.setattr(sink_module, "BUDGET", Budget(bytes=40_000, rows=6))
    monkeypatch.setattr(multi_module, "_PARTS", 3)
    for name, size in (("_IDS", 4), ("_ROWS_OF_A_SCAN", 8), ("_TIE_ROOM", 1)):
        monkeypatch.setattr(reading_module, name, size)
    rows = make_rows(36)
    ids = [row.chunk.id for row in rows]
    store.write(rows)
    oracle.write(rows)
    assert store.listed() == sorted((chunk_id, 1) for chunk_id in ids)
    query = make_query(3, tokens=20)
    for signal in Signal:
        assert store.score(signal, query, ids) == pytest.approx(oracle.score(signal, query, ids), abs=1e-6)
        expected = oracle.search(signal, query, limit=9)
        assert [hit.id for hit in store.search(signal, query, limit=9)] == [hit.id for hit in expected]
    assert store.fetch(ids) == {row.chunk.id: payload_of(row) for row in rows}
    store.change(lambda sink: sink.patch([Patch(chunk_id, {"kind": "new"}, ("staff",), 2) for chunk_id in ids[:21]]))
    assert store.listed() == sorted((chunk_id, 1 + (place < 21)) for place, chunk_id in enumerate(ids))
    store.change(lambda sink: sink.delete(ids[:20]))
    assert store.listed() == sorted((chunk_id, 1 + (chunk_id == ids[20])) for chunk_id in ids[20:])


def test_a_patch_leaves_the_vectors_bit_by_bit(store: Store, client: MilvusClient) -> None:
    row = make_rows(1)[0]
    store.write([row])

    def vectors() -> Any:
        [found] = client.query(
            main_of(store), filter=f'id == "{row.chunk.id}"', output_fields=["dense", "lexical", "vectors"], timeout=60
        )
        return found["dense"], found["lexical"], found["vectors"]

    before = vectors()
    assert np.array_equal(np.array(before[0], np.float16), row.vectors.dense)
    assert list(before[1]) == row.vectors.lexical_ids.tolist()
    assert np.array_equal(np.array(list(before[1].values()), np.float32), row.vectors.lexical_weights)
    store.change(lambda sink: sink.patch([Patch(row.chunk.id, {"kind": "new"}, ("staff",), 2)]))
    assert vectors() == before


def test_the_lease_is_checked_before_every_change(store: Store) -> None:
    store.write(make_rows(2))

    def lost() -> None:
        raise LockedError("the lease was lost")

    sink = MilvusSink(replace(store.options, before_request=lost))
    assert isinstance(sink, LoadingSink)
    row = make_rows(1)[0]
    other = replace(store.schema, generation=9)
    changes: list[Callable[[], object]] = [
        lambda: sink.write([row]),
        lambda: sink.delete([row.chunk.id]),
        lambda: sink.patch([Patch(row.chunk.id, {}, (), 2)]),
        sink.finish_loading,
        sink.drop,
        lambda: MilvusSink(replace(store.options, schema=other, before_request=lost)).ensure(other),
    ]
    for change in changes:
        with pytest.raises(LockedError, match="the lease was lost"):
            change()
    assert store.listed() == sorted((row.chunk.id, 1) for row in make_rows(2))
    sink.close()


def test_a_row_that_the_server_refuses_is_named_and_the_others_go_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(6)
    make = sink_module.record_of

    def spoiled(row: Any, *args: Any) -> Any:
        record = make(row, *args)
        return {**record, "tenant": "x" * 33} if row.chunk.id == rows[3].chunk.id else record

    monkeypatch.setattr(sink_module, "record_of", spoiled)
    result = store.write(rows)
    assert result.acknowledged == 5
    assert [(failure.id, failure.kind, failure.reason) for failure in result.failures] == [
        (rows[3].chunk.id, "permanent", "bad input")
    ]


def test_more_fields_than_columns_are_refused(store: Store) -> None:
    fields = {f"field{number}": SCHEMA.fields["kind"] for number in range(60)}
    with pytest.raises(StoreError, match="60 declared fields make 71 columns, and Milvus takes 64"):
        Store.of("milvus", store.root, fields=fields).sink()
