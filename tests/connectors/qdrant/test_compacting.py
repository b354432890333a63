"""Qdrant Edge keeps the bytes of deleted rows until it is asked to compact."""

from __future__ import annotations

import pytest

from connectors.protocol import CompactingSink, EmbeddedSink
from connectors.qdrant.edge.sink import EdgeSink
from connectors.snapshots.chain import SnapshotChain
from m3core.types import Row
from tests.conformance.data import make_query, make_rows, with_chunk
from tests.conformance.store import Store
from tests.pipelines.operate.traces import traces

_CANARIES = ("Wq7zGhb", "Xk3pLmw", "Zj9kFdv", "Vr5nBnc", "Ux2cYtr")


def rows() -> list[Row]:
    text, title, doc_id, kind, acl = _CANARIES
    plain = make_rows(60)
    plain[7] = with_chunk(
        plain[7], text=text, context="", title=title, doc_id=doc_id, metadata={"kind": kind}, acl=(acl,)
    )
    return plain


def compacted(store: Store) -> None:
    sink = store.sink()
    assert isinstance(sink, CompactingSink)
    assert isinstance(sink, EmbeddedSink)
    sink.compact()
    sink.publish()
    sink.close()


def test_no_byte_of_a_deleted_row_is_left_and_the_others_answer_as_before(store: Store) -> None:
    written = rows()
    store.write(written)
    store.change(lambda sink: sink.delete([written[7].chunk.id]))
    assert {one.split(":")[0] for one in traces(store.root, *_CANARIES)} == set(_CANARIES)
    ids = [row.chunk.id for row in written]
    before = {signal: store.score(signal, make_query(3), ids) for signal in store.signals}
    listed, payloads = store.listed(), store.fetch(ids)

    compacted(store)
    store.close()  # the searcher lets its copy of the old snapshot go
    assert SnapshotChain(store.options.folder).sweep() == 0

    assert traces(store.root, *_CANARIES) == []
    assert (store.listed(), store.fetch(ids)) == (listed, payloads)
    for signal in store.signals:
        assert store.score(signal, make_query(3), ids) == pytest.approx(before[signal], abs=1e-3)


def test_later_runs_vacuum_at_edges_own_thresholds_again(store: Store) -> None:
    written = rows()
    store.write(written)
    compacted(store)
    store.change(lambda sink: sink.delete([written[7].chunk.id]))
    assert traces(store.root, _CANARIES[0]) != []
    compacted(store)
    store.write(make_rows(5, first=100))
    assert len(store.listed()) == 64
    assert traces(store.options.folder / (SnapshotChain(store.options.folder).current() or ""), _CANARIES[0]) == []


def test_before_the_first_snapshot_and_without_deletes_it_does_no_harm(store: Store) -> None:
    compacted(store)
    store.write(make_rows(3))
    compacted(store)
    assert len(store.listed()) == 3
    assert isinstance(store.sink(), EdgeSink)
