"""Builds, and runs that others follow, killed at seeded points: running again ends like a run that nobody disturbed."""

from __future__ import annotations

import random
import signal

import pytest

from tests.pipelines.ingest.ingest_process import IngestProcess
from tests.pipelines.ingest.projects import EDGE, Project
from tests.pipelines.ingest.test_following import NEW, OLD, both, check_agreement, payloads, records, rows, state_of

_SECONDS = 300
# Where an ingest, whose own part is done, brings the other generation in line. Its stores publish after the run's own.
_FOLLOWING = (
    "pipelines.ingest.running:follow:before:1",
    "pipelines.state.manifest:Manifest.compact:after:4",
    "pipelines.ingest.follower:Follower._patch:before:1",
    "pipelines.ingest.follower:Follower._patch:after:1",
    "connectors.qdrant.edge.sink:EdgeSink.publish:before:2",
    "connectors.qdrant.edge.sink:EdgeSink.publish:after:2",
    "pipelines.ingest.follower:Follower._append:before:1",
    "pipelines.ingest.follower:Follower._append:after:1",
    "pipelines.ingest.follower:Follower._append:after:2",
    "pipelines.ingest.following:swap_collection:before:1",
)
_BUILDING = (
    "pipelines.ingest.generation:_add:after:1",
    "pipelines.state.lake:Lake.write_unit:after:1",
    "pipelines.state.manifest:Manifest.append:after:1",
    "connectors.qdrant.edge.sink:EdgeSink.publish:after:1",
    "pipelines.ingest.running:finish:before:1",
    "pipelines.ingest.running:follow:before:1",
)


def some(points: tuple[str, ...], count: int, seed: int) -> list[str]:
    return sorted(random.Random(seed).sample(points, count))


def killed_at(project: Project, point: str, command: str = "ingest") -> None:
    process = IngestProcess.start(project.raw(), project.base, f"{point}:SIGKILL", command)
    assert process.wait(_SECONDS) == -signal.SIGKILL, process.said


@pytest.mark.parametrize("point", some(_FOLLOWING, 4, seed=7))
def test_a_killed_run_leaves_the_other_generation_behind_and_the_next_one_ends_it(project: Project, point: str) -> None:
    both(project, EDGE)
    project.write_lines(rows(6, d1={"acl": ["board"]}, d2={"metadata": {"year": 1999}}, d3=None))
    killed_at(project, point)
    assert state_of(project).is_behind(2)
    project.ingest()
    state = state_of(project)
    assert [each.applied_run for each in state.generations] == [state.run, state.run]
    for number in (1, 2):
        check_agreement(project, number)
        assert records(project, number).keys() == {"d0", "d1", "d2", "d4", "d5"}
        for payload in payloads(project, number).values():
            assert payload.acl == (("board",) if payload.doc_id == "d1" else ("board", "staff"))
            assert payload.metadata["year"] == (1999 if payload.doc_id == "d2" else 2000 + int(payload.doc_id[1:]))


@pytest.mark.parametrize("point", some(_BUILDING, 2, seed=7))
def test_a_killed_build_disturbs_nobody_and_goes_on(project: Project, point: str) -> None:
    project.settings |= {"stores": EDGE, "chunking": OLD}
    project.write_many(12)
    project.ingest()
    before = records(project, 1), payloads(project, 1)
    project.settings["chunking"] = NEW
    killed_at(project, point, "build")
    assert (records(project, 1), payloads(project, 1)) == before
    assert state_of(project).is_behind(2)
    report = project.ingest(build=True)
    assert (report.generation, report.documents.pending, report.documents.failed) == (2, 0, 0)
    assert not state_of(project).is_behind(2)
    check_agreement(project, 2)
    assert len(records(project, 2)) == 12
    if "generation:_add" not in point:
        assert report.tokens_encoded == 0  # the lake had them
