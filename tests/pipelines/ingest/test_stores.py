"""Opening, emptying and closing the stores of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3core.errors import ConfigError, LockedError, StoreError
from m3core.types import Row
from pipelines.ingest.stores import delete_from
from tests.pipelines.ingest.parts import PickySink, chunk, record_of, stores_of, vectors
from tests.pipelines.ingest.projects import Project


def down(row: Row) -> str:
    raise StoreError("it does not answer", "start it")


def test_deletes_go_to_the_store_in_batches_under_the_lease(tmp_path: Path) -> None:
    sink = PickySink(tmp_path, lambda row: "")
    stores = stores_of({"one": sink})
    chunks = [chunk(f"text {number}") for number in range(2300)]
    sink.write([Row(each, vectors(0), 1) for each in chunks])
    checks: list[None] = []

    assert delete_from(stores, "one", (each.id for each in chunks[:2200]), lambda: checks.append(None)) == 2200

    assert sink.count() == 100
    assert len(checks) == 3

    def lost() -> None:
        raise LockedError("the lease is lost")

    with pytest.raises(LockedError):
        delete_from(stores, "one", [chunks[-1].id], lost)
    assert sink.count() == 100


def test_a_server_that_fails_is_given_up_and_the_last_one_ends_the_run(tmp_path: Path) -> None:
    rows = [Row(chunk("text"), vectors(0), 1)]
    stores = stores_of({name: PickySink(tmp_path / name, down) for name in ("one", "two")})
    assert stores.attempt("one", lambda sink: sink.write(rows)) is None
    assert (stores.standing.present, list(stores.at_work), list(stores.standing.down)) == (("two",), ["two"], ["one"])
    with pytest.raises(StoreError, match="does not answer"):
        stores.attempt("two", lambda sink: sink.write(rows))


def test_a_row_is_done_only_where_it_is_visible_and_nothing_is_left_to_delete(tmp_path: Path) -> None:
    sinks = {name: PickySink(tmp_path / name, lambda row: "") for name in ("one", "two")}
    stores = stores_of(sinks, down={"three": StoreError("down")})
    waits = dict.fromkeys(("one", "three", "two"), "pending")
    assert stores.embedded == {}
    assert stores.status_after(record_of("a", status=waits)) == {"one": "done", "two": "done", "three": "pending"}
    assert stores.status_after(record_of("a", status=waits, obsolete_chunk_ids=("x",))) == waits


def test_an_unknown_kind_is_refused_with_the_nearest_one(project: Project) -> None:
    project.write_many(1)
    project.settings["stores"] = {"main": {"kind": "qdrant_edge"}}
    with pytest.raises(ConfigError, match="qdrant-edge"):
        project.ingest()
