"""A loader that is paused past its lease, in the moment between asking for the lease and sending its request.

Another run finishes meanwhile; then the paused one goes on. Elasticsearch's versions refuse what comes too late; a
store without them takes one request at most, which audit finds and repair mends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import ExitCode
from pipelines.operate.mending import RepairRequest, repair
from tests.pipelines.ingest.ingest_process import IngestProcess
from tests.pipelines.ingest.projects import Project, document
from tests.pipelines.operate.damage import audited, place_of
from tests.servers.running import Servers, connection_of

pytestmark = [pytest.mark.xdist_group("elasticsearch"), pytest.mark.slow]

_SECONDS = 120
_UPSERT = "connectors.milvus.bulk:_upsert"
# Long enough for a renewal on a busy machine, short enough to be waited for.
_LEASE_SECONDS = 4.0


@pytest.fixture
def make_project(servers: Servers, tmp_path: Path, tiny_model: Path) -> Callable[[str, list[str]], Project]:
    def make(kind: str, signals: list[str]) -> Project:
        servers.need(kind)
        connection = connection_of(kind, tmp_path)
        server = {"kind": kind, "signals": signals, "url": connection.url, "prefix": connection.prefix}
        others = sorted({"dense", "lexical", "multi"} - set(signals))
        stores: dict[str, Any] = {
            "words": server,
            "vectors": {"kind": "qdrant-edge", "signals": others, "text": False},
        }
        project = Project(tmp_path / kind, tiny_model, {"stores": stores})
        project.docs.mkdir(parents=True)
        project.write_many(4)
        assert project.ingest().exit_code is ExitCode.OK
        return project

    return make


@contextmanager
def paused(project: Project, point: str) -> Iterator[IngestProcess]:
    """A run of the project as it is now that stops itself at `point`; it goes on when the block ends."""
    started = IngestProcess.start(project.raw(), project.base, f"{point}:SIGSTOP", lease_seconds=_LEASE_SECONDS)
    started.wait_until_stopped(_SECONDS)
    try:
        yield started
    finally:
        started.go_on()


def run_past_a_paused_one(project: Project, point: str) -> None:
    """Three documents change; while their loader is paused they change again, and go, in another run."""
    for number in range(3):
        project.write(f"d{number:03}.md", document(number).replace("Paragraph 1", "The paused paragraph"))
    with paused(project, point) as late:
        project.write("d000.md", document(0).replace("Paragraph 1", "The last paragraph"))
        (project.docs / "d001.md").unlink()
        assert project.ingest(lock_wait=_SECONDS).exit_code is ExitCode.OK
        project.check_agreement()
    assert late.wait(_SECONDS) != 0
    assert "was lost to pid" in late.said


def test_elasticsearch_takes_nothing_from_a_loader_that_lost_its_lease(
    make_project: Callable[[str, list[str]], Project],
) -> None:
    project = make_project("elasticsearch", ["lexical"])
    run_past_a_paused_one(project, "connectors.elasticsearch.bulk:_bulk:before:1")
    project.check_agreement()
    assert audited(project).clean


def test_milvus_takes_one_request_which_audit_finds_and_repair_mends(
    make_project: Callable[[str, list[str]], Project],
) -> None:
    project = make_project("milvus", ["lexical", "multi"])
    run_past_a_paused_one(project, f"{_UPSERT}:before:2")  # the first one brings multi-vectors, this one the rows
    assert not audited(project).clean
    repair(RepairRequest(place_of(project), max_delete_fraction=1.0, sample=10_000))
    project.check_agreement()
    assert audited(project).clean


@pytest.mark.nightly
def test_multi_vectors_that_come_too_late_belong_to_no_row(make_project: Callable[[str, list[str]], Project]) -> None:
    project = make_project("milvus", ["lexical", "multi"])
    run_past_a_paused_one(project, f"{_UPSERT}:before:1")
    project.check_agreement()
    assert audited(project).clean
