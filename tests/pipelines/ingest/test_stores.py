"""Opening, emptying and closing the stores of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3core.errors import ConfigError, LockedError
from m3core.types import Row
from pipelines.ingest.stores import Stores, delete_all
from tests.pipelines.ingest.parts import PickySink, chunk, vectors
from tests.pipelines.ingest.projects import Project


def test_deletes_go_to_every_store_in_batches_under_the_lease(tmp_path: Path) -> None:
    sinks = [PickySink(tmp_path / name, lambda row: "") for name in ("one", "two")]
    chunks = [chunk(f"text {number}") for number in range(2300)]
    for sink in sinks:
        sink.write([Row(each, vectors(0), 1) for each in chunks])
    checks: list[None] = []

    assert delete_all(sinks, (each.id for each in chunks[:2200]), lambda: checks.append(None)) == 2200

    assert [sink.count() for sink in sinks] == [100, 100]
    assert len(checks) == 6

    def lost() -> None:
        raise LockedError("the lease is lost")

    with pytest.raises(LockedError):
        delete_all(sinks, [chunks[-1].id], lost)
    assert [sink.count() for sink in sinks] == [100, 100]
    assert delete_all([], iter(["never read"]), lost) == 0


def test_stores_that_publish_are_pending_until_they_did(tmp_path: Path) -> None:
    stores = Stores({"b": PickySink(tmp_path, lambda row: "")})
    assert stores.embedded == {}
    assert stores.initial_status() == {"b": "done"}


def test_an_unknown_kind_is_refused_with_the_nearest_one(project: Project) -> None:
    project.write_many(1)
    project.settings["stores"] = {"main": {"kind": "qdrant_edge"}}
    with pytest.raises(ConfigError, match="qdrant-edge"):
        project.ingest()
