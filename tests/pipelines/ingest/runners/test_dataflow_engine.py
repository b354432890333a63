"""Jobs on a Dataflow service of ours: started by Beam's own client, watched, cancelled, ended as a local run ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m3core.errors import ConfigError, ExitCode, MissingExtraError, RefusedError, UsageError
from pipelines.ingest.report import IngestReport
from pipelines.ingest.runners import dataflow_engine
from pipelines.ingest.runners.dataflow_engine import DataflowEngine
from pipelines.ingest.runners.engine import EngineError, engine_of
from pipelines.ingest.runners.launch import OnEngine
from pipelines.ingest.runners.watch import DeadlineError
from tests.pipelines.ingest.projects import Project
from tests.pipelines.ingest.runners.test_dataflow import DATAFLOW
from tests.pipelines.ingest.runners.test_direct import change, end_state, fill, project_on, told
from tests.pipelines.s3 import S3
from tests.servers.dataflow import DataflowService, running_dataflow
from tests.servers.running import Servers


@pytest.fixture
def service(fresh_worker: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataflowService]:
    monkeypatch.setattr(dataflow_engine, "_POLL_SECONDS", 0.2)
    with running_dataflow() as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
        yield running


@pytest.fixture
def project(
    tmp_path: Path, tiny_model: Path, servers: Servers, service: DataflowService, s3: S3, state_url: str
) -> Project:
    """A collection of which nothing but the configuration is on this machine."""
    made = project_on(servers, tmp_path / "on-dataflow", tiny_model)
    made.settings["storage"] = {"path": "m3-data", "url": state_url}
    section = {"kind": "dataflow", "dataflow": {**DATAFLOW, "endpoint": service.url}}
    made.settings["runner"] = {**made.settings["runner"], **section}
    for name, kind, key in (("docs", "folder", "docs"), ("rows", "jsonl", "rows.jsonl")):
        made.settings["sources"][name] = {"kind": kind, "url": f"{s3.url}/{key}", "acl": ["everyone"]}
    return made


def put(project: Project, s3: S3) -> None:
    """What its sources are, into the bucket."""
    s3.copy(project.docs, "docs")
    s3.put("rows.jsonl", (project.base / "rows.jsonl").read_bytes())
    if not (project.docs / "d005.md").exists():
        s3.delete("docs/d005.md")


def run(project: Project) -> IngestReport:
    engine = engine_of(project.config)
    assert engine is not None
    engine.check()
    return project.ingest(runner=OnEngine(engine))


@pytest.mark.slow
def test_a_job_ends_as_a_local_run_does(
    project: Project, service: DataflowService, s3: S3, tmp_path: Path, tiny_model: Path, servers: Servers
) -> None:
    local = project_on(servers, tmp_path / "local", tiny_model)
    for step in (fill, change):
        for each in (local, project):
            step(each)
        put(project, s3)
        assert told(run(project)) == told(local.ingest())
    assert end_state(project) == end_state(local)
    assert [job.state for job in service.jobs] == ["JOB_STATE_DONE"] * 2
    described = service.jobs[0].described
    (pool,) = described["environment"]["workerPools"]
    assert pool["sdkHarnessContainerImages"][0]["containerImage"] == DATAFLOW["image"]
    assert pool["subnetwork"] == DATAFLOW["subnetwork"]
    assert described["environment"]["serviceKmsKeyName"] == DATAFLOW["kms_key"]
    assert described["name"].startswith("m3-notes-run1-1-")


def test_a_job_that_is_not_taken_says_why_and_quotes_nothing(
    project: Project, service: DataflowService, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apache_beam.utils.retry.Clock.sleep", lambda self, seconds: None)
    fill(project)
    put(project, s3)
    service.refusing = True
    with pytest.raises(EngineError, match=r"Dataflow did not take the job \(403 \w+\)") as caught:
        run(project)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_a_job_over_its_deadline_is_cancelled(
    project: Project, service: DataflowService, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.ingest.runners.watch.GRACE_SECONDS", 0.1)
    fill(project)
    put(project, s3)
    service.running = False
    project.settings["runner"]["deadline"] = 1.0
    with pytest.raises(DeadlineError, match="was cancelled"):
        run(project)
    assert [job.state for job in service.jobs] == ["JOB_STATE_CANCELLED"]


def test_what_is_missing_is_said_before_anything_starts(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    section = project.settings["runner"]["dataflow"]
    DataflowEngine(project.config).check()
    project.settings["runner"]["dataflow"] = {**section, "endpoint": ""}
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="no Google credentials"):
        DataflowEngine(project.config).check()
    monkeypatch.setitem(__import__("sys").modules, "apache_beam.runners.dataflow.internal.apiclient", None)
    with pytest.raises(MissingExtraError, match="client libraries") as caught:
        DataflowEngine(project.config).check()
    assert "threefold[dataflow]" in caught.value.remedy
    project.settings["collection"] = {"name": "n" * 40}
    with pytest.raises(RefusedError, match=r"collection\.name has 40 characters"):
        DataflowEngine(project.config).check()
    project.settings["collection"] = {"name": "notes"}
    source = project.settings["sources"]["docs"]
    project.settings["sources"]["docs"] = {"kind": "folder", "path": "docs", "acl": ["everyone"]}
    with pytest.raises(UsageError, match=r"sources\.docs\.path = 'docs' is on this machine"):
        DataflowEngine(project.config).check()
    project.settings["sources"]["docs"] = source
    del project.settings["storage"]["url"]
    with pytest.raises(UsageError, match=r"storage\.url is missing"):
        DataflowEngine(project.config).check()
