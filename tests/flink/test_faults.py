"""What is broken on a cluster amid a run is mended by Flink's own restart or by the next run, and encoded once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from m3core.errors import ExitCode, M3Error
from pipelines.cli.main import main
from pipelines.ingest.runners.engine import EngineError
from pipelines.ingest.runners.flink_rest import FlinkRest
from pipelines.ingest.runners.watch import DeadlineError, WorkersError
from tests.flink.samples import Collection, Going, on, stores_in
from tests.pipelines.ingest.projects import document
from tests.servers.flink import FlinkCluster
from tests.servers.process import free_ports
from tests.servers.running import Servers

pytestmark = [pytest.mark.flink, pytest.mark.xdist_group("flink")]

_DOCUMENTS = 200


@pytest.fixture
def many(tmp_path: Path, tiny_model: Path, servers: Servers, cluster: FlinkCluster) -> Iterator[Collection]:
    """A run with a tiny model that can be broken in its middle."""
    (tmp_path / "docs").mkdir()
    for number in range(_DOCUMENTS):
        (tmp_path / "docs" / f"d{number:03}.md").write_text(document(number))
    yield Collection(
        tmp_path,
        {
            "collection": {"name": "notes"},
            "storage": {"path": "m3-data"},
            "model": {"name": str(tiny_model), "threads": 1},
            "sources": {"docs": {"kind": "folder", "path": "docs", "acl": ["everyone"]}},
            "chunking": {"max_tokens": 48},
            "ingest": {"min_free_bytes": 1 << 20},
            "stores": stores_in(tmp_path, servers),
            "runner": on(cluster, split_bytes=8192),
        },
    )
    wait_for(lambda: cluster.free_slots() == cluster.slots)


def wait_for(ready: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.05)


def broken(collection: Collection, what: Callable[[], None]) -> tuple[Going, set[bytes]]:
    """A run that is broken while it encodes; the run, and the texts that were in the lake by then."""
    going = Going(collection.ingest)
    wait_for(lambda: len(collection.encoded()) > 20 or not going.thread.is_alive())
    kept = set(collection.encoded())
    what()
    return going, kept


def check_mended(collection: Collection, kept: set[bytes]) -> None:
    """Run again: everything is there, what was in the lake was not encoded again, and the audit is clean."""
    report = collection.ingest()
    assert report.exit_code == ExitCode.OK, report
    assert len(collection.records()) == _DOCUMENTS
    assert all(set(record.status.values()) == {"done"} for record in collection.records().values())
    times = collection.encoded()
    assert kept <= times.keys()
    assert {times[key] for key in kept} <= {1}
    assert main(["audit", "-c", str(collection.base / "m3.toml")]) == 0


def test_a_worker_that_is_killed(many: Collection, cluster: FlinkCluster) -> None:
    def kill() -> None:
        for pid in cluster.workers():
            os.kill(pid, signal.SIGKILL)

    going, kept = broken(many, kill)
    going.end()
    assert going.error is None, going.error  # Flink began again
    check_mended(many, kept)


def test_a_task_manager_that_is_killed_and_comes_back(many: Collection, cluster: FlinkCluster) -> None:
    def restart() -> None:
        cluster.kill("task-manager")
        cluster.start_task_manager()

    going, kept = broken(many, restart)
    going.end()
    assert going.error is None, going.error
    check_mended(many, kept)


def test_a_job_that_is_cancelled(many: Collection, cluster: FlinkCluster) -> None:
    rest = FlinkRest(cluster.rest)

    def cancel() -> None:
        for job in (cluster.ask("/jobs/overview") or {})["jobs"]:
            if job["state"] == "RUNNING":
                rest.cancel(job["jid"])

    going, kept = broken(many, cancel)
    going.end()
    assert isinstance(going.error, EngineError)
    assert "CANCELED" in str(going.error)
    assert going.error.exit_code == ExitCode.UNREACHABLE
    check_mended(many, kept)


def test_a_job_server_that_is_killed_does_not_end_the_job(many: Collection, cluster: FlinkCluster) -> None:
    going, kept = broken(many, lambda: cluster.kill("job-server"))
    going.end()
    cluster.start_job_server()
    assert going.error is None, going.error
    assert going.report is not None
    assert going.report.documents.added == _DOCUMENTS
    check_mended(many, kept)


def test_a_job_server_of_another_cluster_is_noticed(many: Collection, cluster: FlinkCluster) -> None:
    """It takes the job, and then cannot give it to Flink."""
    cluster.kill("job-server")
    cluster.start_job_server(master=f"127.0.0.1:{free_ports(1)[0]}")
    try:
        with pytest.raises(EngineError, match="the job ended before it began") as caught:
            many.ingest()
    finally:
        cluster.kill("job-server")
        cluster.start_job_server()
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_workers_that_cannot_start_are_noticed_and_the_job_is_cancelled(
    many: Collection, cluster: FlinkCluster, tmp_path: Path
) -> None:
    """Flink itself would show the job as running for ever."""
    many.values["runner"] |= {"environment": "process", "worker": str(tmp_path / "wrong"), "first_sign": 10.0}
    (tmp_path / "wrong").write_text("#!/bin/sh\nsleep 600\n")
    (tmp_path / "wrong").chmod(0o755)
    with pytest.raises(WorkersError, match="no worker has reported within 10 s"):
        many.ingest()
    wait_for(lambda: all(job["state"] != "RUNNING" for job in cluster.ask("/jobs/overview")["jobs"]))


def test_a_run_over_its_deadline_keeps_what_was_finished(many: Collection) -> None:
    many.values["runner"] |= {"deadline": 1.0}
    with pytest.raises(DeadlineError, match=r"not done after 1 s \(runner\.deadline\); what was finished is committed"):
        many.ingest()
    many.values["runner"] |= {"deadline": 600.0}
    check_mended(many, set(many.encoded()))


def test_a_secret_that_workers_lack_ends_the_run(many: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool does not have the launcher's environment, and a job carries references only."""
    monkeypatch.setenv("M3_TEST_KEY", "for the launcher only")
    many.values["stores"]["words"]["api_key"] = "env:M3_TEST_KEY"
    with pytest.raises(M3Error, match="M3_TEST_KEY"):
        many.ingest()
