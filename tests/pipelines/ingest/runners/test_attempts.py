"""A document that changes between two attempts of one job leaves no row of the version in between."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.ingest.runners.attempts import with_strays
from pipelines.ingest.runners.direct import DirectEngine
from pipelines.ingest.runners.engine import Build
from pipelines.ingest.runners.launch import OnEngine
from pipelines.ingest.runners.order import Order
from pipelines.ingest.runners.watch import Watch
from pipelines.ingest.runners.worker import StepShared
from tests.pipelines.ingest.projects import Project, document
from tests.pipelines.ingest.runners.test_direct import fill, project_on
from tests.servers.running import Servers


@dataclass(frozen=True)
class Repeating:
    """Runs the job until its commit fails, changes a document, and runs it again: what Flink's restart does."""

    project: Project
    patch: pytest.MonkeyPatch

    def check(self) -> None:
        """Nothing can be missing."""

    def run(self, build: Build, order: Order, watch: Watch) -> None:
        def fail(shared: StepShared, outcomes: object) -> None:
            raise ZeroDivisionError("the first attempt dies before its commit")

        with self.patch.context() as patch:
            patch.setattr(StepShared, "finish", fail)
            with pytest.raises(Exception, match="ZeroDivisionError"):
                DirectEngine().run(build, order, watch)
        self.project.write("d003.md", document(999))
        DirectEngine().run(build, order, watch)


def test_rows_of_a_version_in_between_are_deleted(
    tmp_path: Path, tiny_model: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on(servers, tmp_path / "p", tiny_model)
    fill(project)
    report = project.ingest(runner=OnEngine(Repeating(project, monkeypatch)))
    assert report.documents.added == 31
    assert report.chunks_deleted > 0
    project.check_agreement()
    assert project.ingest(runner=OnEngine(DirectEngine())).documents.unchanged == 31


def test_without_strays_nothing_is_changed() -> None:
    assert with_strays([], [[("a", ("t", "d"))]]) == []
