"""An engine whose launcher and workers share nothing but a bucket: the same end as a local run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m3core.errors import ExitCode, StateError
from pipelines.ingest.runners.direct import DirectEngine
from pipelines.ingest.runners.launch import OnEngine
from pipelines.ingest.runners.worker import Worker, at_home
from pipelines.state.mirror import Mirror, mirror_of
from pipelines.state.tombstones import PURGE, add_event
from tests.pipelines.ingest.projects import Project
from tests.pipelines.ingest.runners.orders import begun
from tests.pipelines.ingest.runners.test_direct import change, end_state, fill, project_on, told
from tests.pipelines.operate.damage import audited, once_in_the_lake
from tests.pipelines.state.test_bucket_state import objects
from tests.servers.running import Servers

pytestmark = pytest.mark.usefixtures("fresh_worker")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.nightly)])
def test_it_ends_where_a_local_run_ends(
    tmp_path: Path, tiny_model: Path, servers: Servers, state_url: str, workers: int
) -> None:
    local = project_on(servers, tmp_path / "local", tiny_model)
    other = project_on(servers, tmp_path / "engine", tiny_model)
    other.settings["storage"] = {"path": "m3-data", "url": state_url}
    runner = OnEngine(DirectEngine(workers))
    for step in (fill, change):
        for project in (local, other):
            step(project)
        here, there = local.ingest(), other.ingest(runner=runner)
        assert told(there) == told(here)
    again = other.ingest(runner=runner)
    assert (again.exit_code, again.chunks_written, again.documents.unchanged) == (ExitCode.OK, 0, 32)
    assert not list(other.base.rglob("lake/*/*.parquet")), "no vector came to the launcher"
    assert not [key for key in objects(state_url) if "/work/" in key]
    assert end_state(other) == end_state(local)
    erase_first(other, state_url, runner)
    assert audited(other).clean
    assert type(mirror_of(other.paths.lease_file)) is Mirror, "a whole copy again"
    assert once_in_the_lake(other)


def erase_first(project: Project, state_url: str, runner: OnEngine) -> None:
    """A purge waits: before the next run it finds the vectors that the launcher has left in the bucket."""
    paths, gone = project.paths, project.records()["d002.md"]
    add_event(paths, PURGE, documents=[(gone.tenant, gone.doc_id)])
    before = vectors(state_url)
    project.ingest(runner=runner)
    assert len(before) - len(vectors(state_url)) == len(gone.chunk_ids)
    assert gone.doc_id not in project.records()


def vectors(state_url: str) -> set[bytes]:
    """Keys of all lake files in the bucket."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [data for key, data in objects(state_url).items() if "/lake/" in key and key.endswith(".parquet")]
    tables = [pq.read_table(pa.BufferReader(data), columns=["key"]) for data in files]
    return {key for table in tables for key in table.column("key").to_pylist()}


def in_bucket(project: Project, state_url: str) -> Project:
    project.settings["stores"] = {"main": {"kind": "qdrant", "url": "http://127.0.0.1:1"}}
    project.settings["storage"] = {"path": "m3-data", "url": state_url}
    project.write_many(1)
    return project


def test_a_worker_that_is_given_another_bucket_says_so(project: Project, state_url: str) -> None:
    with begun(in_bucket(project, state_url)) as (order, _):
        section = order.config.storage.model_copy(update={"url": f"{state_url}-of-others"})
        lost = at_home(replace(order, config=order.config.model_copy(update={"storage": section})))
        with pytest.raises(StateError, match=r"finds no collection notes at s3://.*-of-others") as caught:
            Worker.checked(lost)
        assert "credentials" in caught.value.remedy
        assert at_home(order).storage not in (order.storage, lost.storage)
