"""The writing side beyond the conformance suite: loading settings, indices of others, signals, many rows."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from typing import Any

import pytest

from connectors.elasticsearch import sink as sink_module
from connectors.elasticsearch.client import index_name
from connectors.elasticsearch.sink import ElasticsearchSink
from connectors.protocol import LoadingSink, Patch
from m3core.errors import LockedError, StoreError
from m3core.types import Signal
from tests.conformance.data import make_query, make_rows, with_chunk
from tests.conformance.store import Store

pytestmark = pytest.mark.xdist_group("elasticsearch")


def call(store: Store, method: str, path: str, body: Any = None) -> Any:
    """One request to the server itself; `INDEX` in the path is the store's."""
    options = store.options
    url = f"{options.connection.url}/{path.replace('INDEX', index_name(options))}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - the server of the tests
        return json.load(answer)


def settings_of(store: Store) -> dict[str, Any]:
    [found] = call(store, "GET", "INDEX/_settings").values()
    index: dict[str, Any] = found["settings"]["index"]
    return index


def test_a_generation_that_was_never_live_is_loaded_without_refreshing(store: Store) -> None:
    sink = ElasticsearchSink(replace(store.options, building=True))
    assert isinstance(sink, LoadingSink)
    sink.ensure(store.schema)
    assert (settings_of(store)["refresh_interval"], settings_of(store)["number_of_replicas"]) == ("-1", "0")
    sink.write(make_rows(3))
    assert store.count() == 0
    sink.flush()
    assert store.count() == 3
    sink.finish_loading()
    sink.finish_loading()
    assert "refresh_interval" not in settings_of(store)
    assert settings_of(store)["number_of_replicas"] == "1"
    sink.close()


def test_a_live_generation_never_gets_loading_settings_and_loses_those_that_a_killed_run_left(store: Store) -> None:
    killed = ElasticsearchSink(replace(store.options, building=True))
    killed.ensure(store.schema)
    killed.close()
    later = ElasticsearchSink(store.options)
    later.ensure(store.schema)
    assert "refresh_interval" not in settings_of(store)
    building = ElasticsearchSink(replace(store.options, building=True))
    building.ensure(store.schema)
    assert "refresh_interval" not in settings_of(store)
    for sink in (later, building):
        sink.close()


def test_deleted_rows_are_fenced_for_an_hour_and_nothing_is_pruned(store: Store) -> None:
    store.write([])
    assert settings_of(store)["gc_deletes"] == "1h"
    [found] = call(store, "GET", "INDEX/_mapping").values()
    assert found["mappings"]["properties"]["lexical"]["index_options"]["prune"] is False
    assert found["mappings"]["dynamic"] == "strict"


def test_a_stale_write_does_not_bring_a_deleted_row_back(store: Store) -> None:
    row = make_rows(1)[0]
    store.write([replace(row, revision=3)])
    deleting = ElasticsearchSink(replace(store.options, revision=4))
    deleting.delete([row.chunk.id])
    with pytest.raises(LockedError, match="rows of a later run than 3") as caught:
        ElasticsearchSink(replace(store.options, revision=3)).write([replace(row, revision=3)])
    assert "end this run" in caught.value.remedy
    assert store.listed() == []
    assert deleting.write([replace(row, revision=4)]).acknowledged == 1
    deleting.close()


def test_a_row_of_an_earlier_run_is_fenced_by_the_run_that_brings_it(store: Store) -> None:
    row = make_rows(1)[0]
    store.write([replace(row, revision=3)])  # of a run that died
    bringing = ElasticsearchSink(replace(store.options, revision=5))
    assert bringing.write([replace(row, revision=2)]).acknowledged == 1
    bringing.flush()
    assert list(bringing.scan()) == [(row.chunk.id, 2)]
    with pytest.raises(LockedError, match="rows of a later run than 4"):
        ElasticsearchSink(replace(store.options, revision=4)).write([replace(row, revision=4)])
    bringing.close()


def test_an_index_of_somebody_else_is_left_alone(store: Store) -> None:
    call(store, "PUT", "INDEX", {"mappings": {"properties": {"id": {"type": "keyword"}}}})
    with pytest.raises(StoreError, match="was not made by threefold"):
        store.sink()


def test_an_index_that_prunes_is_refused(store: Store) -> None:
    store.write([])
    [made] = call(store, "GET", "INDEX/_mapping").values()
    call(store, "DELETE", "INDEX")
    mappings = made["mappings"]
    mappings["properties"]["lexical"]["index_options"] = {"prune": True}
    call(store, "PUT", "INDEX", {"mappings": mappings})
    with pytest.raises(StoreError, match="another mapping for lexical weights"):
        store.sink()


@pytest.mark.parametrize("others", [{Signal.DENSE}, {Signal.MULTI, Signal.LEXICAL}])
def test_signals_that_it_cannot_keep_are_refused_by_name(store: Store, others: set[Signal]) -> None:
    wrong = Store.of("elasticsearch", store.root, signals=frozenset(others))
    with pytest.raises(StoreError, match=f"cannot keep {min(others - {Signal.LEXICAL})} vectors"):
        wrong.sink()
    wrong.close()


def test_scan_and_patch_go_on_beyond_one_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_PAGE", 7)
    monkeypatch.setattr(sink_module, "_READ_BATCH", 5)
    rows = make_rows(36)
    store.write(rows)
    assert store.listed() == sorted((row.chunk.id, 1) for row in rows)
    store.change(lambda sink: sink.patch([Patch(row.chunk.id, {"kind": "new"}, ("staff",), 2) for row in rows[:21]]))
    assert store.listed() == sorted((row.chunk.id, 1 + (place < 21)) for place, row in enumerate(rows))


def test_a_patch_sees_rows_that_no_search_sees_yet_and_keeps_their_tokens(store: Store) -> None:
    row = make_rows(1)[0]
    sink = ElasticsearchSink(replace(store.options, building=True))
    sink.ensure(store.schema)
    sink.write([row])
    sink.patch([Patch(row.chunk.id, {"kind": "new"}, ("staff",), 2)])
    sink.flush()
    sink.close()
    assert {hit.id for hit in store.search(Signal.LEXICAL, make_query(0, tokens=80))} == {row.chunk.id}
    assert store.fetch([row.chunk.id])[row.chunk.id].metadata == {"kind": "new"}


def test_the_lease_is_checked_before_every_change(store: Store) -> None:
    store.write(make_rows(2))

    def lost() -> None:
        raise LockedError("the lease was lost")

    sink = ElasticsearchSink(replace(store.options, before_request=lost))
    row = make_rows(1)[0]
    other = replace(store.schema, generation=9)
    for change in (
        lambda: sink.write([row]),
        lambda: sink.delete([row.chunk.id]),
        lambda: sink.patch([Patch(row.chunk.id, {}, (), 2)]),
        sink.finish_loading,
        lambda: ElasticsearchSink(replace(store.options, schema=other, before_request=lost)).ensure(other),
    ):
        with pytest.raises(LockedError, match="the lease was lost"):
            change()
    assert store.listed() == sorted((row.chunk.id, 1) for row in make_rows(2))
    sink.close()


def test_a_row_that_the_server_refuses_is_named_and_the_others_go_in(store: Store) -> None:
    """A field that the mapping does not have: what another version might have written."""
    rows = make_rows(4)
    wider = replace(store.schema, fields={**store.schema.fields, "newer": store.schema.fields["kind"]})
    store.write([])
    sink = ElasticsearchSink(replace(store.options, schema=wider))
    secret = "do not quote me"
    result = sink.write([rows[0], with_chunk(rows[1], metadata={"newer": secret}), rows[2]])
    sink.close()
    assert result.acknowledged == 2
    [failure] = result.failures
    assert (failure.id, failure.kind) == (rows[1].chunk.id, "permanent")
    assert failure.reason == "400 strict_dynamic_mapping_exception"
    assert store.listed() == sorted((row.chunk.id, 1) for row in (rows[0], rows[2]))


def test_a_blocked_index_is_an_error_and_no_dead_letter(store: Store) -> None:
    store.write(make_rows(1))
    call(store, "PUT", "INDEX/_settings", {"index.blocks.write": True})
    with pytest.raises(StoreError, match=r"takes no rows \(403 cluster_block_exception\)"):
        store.write(make_rows(3))
    call(store, "PUT", "INDEX/_settings", {"index.blocks.write": False})
    assert store.count() == 1
