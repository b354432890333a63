"""The graph of an engine, on Beam's local runner in three ways, ends where a local run ends: ids, rows, counts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import ExitCode, RefusedError, SourceError
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.replay import load_waiting
from pipelines.ingest.report import IngestReport
from pipelines.ingest.runners.direct import DirectEngine
from pipelines.ingest.runners.engine import Build
from pipelines.ingest.runners.launch import OnEngine
from pipelines.ingest.runners.order import Order
from pipelines.ingest.runners.watch import DeadlineError, Watch
from tests.pipelines.ingest.projects import Project, document
from tests.pipelines.operate.damage import once_in_the_lake
from tests.servers.running import Servers, connection_of

# Engines, and the bytes up to which the launcher lists the sources itself.
WAYS = [
    pytest.param(DirectEngine(), 1 << 20, id="one-process"),
    pytest.param(DirectEngine(bundle_repeat=1), 0, id="bundles-repeated"),
    pytest.param(DirectEngine(workers=4), 0, id="four-processes", marks=pytest.mark.flink),
]
_RUNNER = {"split_bytes": 2048, "parallelism": 2, "wave_bytes": 1 << 16}


def project_on(servers: Servers, folder: Path, model: Path) -> Project:
    """A collection in a server, under a prefix of its own, with two kinds of sources."""
    servers.need("milvus")
    found = connection_of("milvus", folder)
    made = Project(folder, model, {"stores": {"main": {"kind": "milvus", "url": found.url, "prefix": found.prefix}}})
    made.docs.mkdir(parents=True)
    made.settings["runner"] = _RUNNER
    made.settings["sources"] = {
        "docs": {"kind": "folder", "path": "docs", "acl": ["everyone"]},
        "rows": {"kind": "jsonl", "path": "rows.jsonl", "acl": ["everyone"]},
    }
    return made


def fill(project: Project) -> None:
    project.write_many(12)
    rows = [{"doc_id": f"r{number}", "text": document(100 + number, 2)} for number in range(20)]
    lines = [json.dumps(row) for row in rows]
    lines[7] = "{broken"
    (project.base / "rows.jsonl").write_text("\n".join(lines) + "\n")


def change(project: Project) -> None:
    """An edit, a delete, a new document, and the broken line mended."""
    project.write("d003.md", document(77))
    project.write("new.md", document(300))
    (project.docs / "d005.md").unlink()
    lines = (project.base / "rows.jsonl").read_text().splitlines()
    lines[7] = json.dumps({"doc_id": "r7", "text": document(107, 2)})
    (project.base / "rows.jsonl").write_text("\n".join(lines) + "\n")


def end_state(project: Project) -> dict[str, Any]:
    """What a run leaves that must not depend on the engine."""
    project.check_agreement()
    records = {
        name: {**asdict(record), "stamp": "" if record.source == "docs" else record.stamp}
        for name, record in project.records().items()
    }
    return {"records": records, "rows": project.rows()}


def told(report: IngestReport) -> IngestReport:
    """The report without times and memory, and with no place of a dead letter: splits count their own lines. What is
    repeated is reused from the lake, which is counted."""
    timeless = replace(report, seconds=0, encode_seconds=0, peak_bytes=0, texts_reused=0, tokens_reused=0)
    letters = tuple(replace(letter, source="", message="") for letter in timeless.dead_letters)
    return replace(timeless, dead_letters=letters)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "listing_bytes"), WAYS)
def test_an_engine_ends_where_a_local_run_ends(
    tmp_path: Path, tiny_model: Path, servers: Servers, engine: DirectEngine, listing_bytes: int
) -> None:
    local = project_on(servers, tmp_path / "local", tiny_model)
    other = project_on(servers, tmp_path / "engine", tiny_model)
    other.settings["runner"] = {**_RUNNER, "listing_bytes": listing_bytes}
    runner = OnEngine(engine)
    for step in (fill, change):
        for project in (local, other):
            step(project)
        here, there = local.ingest(), other.ingest(runner=runner)
        assert told(there) == told(here)
        assert end_state(other) == end_state(local)
    again = other.ingest(runner=runner)
    assert (again.exit_code, again.chunks_written, again.documents.unchanged) == (ExitCode.OK, 0, 32)
    assert once_in_the_lake(other)


def test_waves_are_jobs_of_bounded_text(tmp_path: Path, tiny_model: Path, servers: Servers) -> None:
    project = project_on(servers, tmp_path / "p", tiny_model)
    fill(project)
    project.write("long.md", document(1, 500))
    project.settings["runner"] = {**_RUNNER, "split_bytes": 1024}
    report = project.ingest(runner=OnEngine(DirectEngine()))
    assert report.documents.added == 32
    project.check_agreement()


def test_too_many_deletes_and_an_empty_source_are_refused_before_anything_changes(
    tmp_path: Path, tiny_model: Path, servers: Servers
) -> None:
    project, runner = project_on(servers, tmp_path / "p", tiny_model), OnEngine(DirectEngine())
    fill(project)
    project.ingest(runner=runner)
    before = end_state(project)
    for number in range(11):
        (project.docs / f"d{number:03}.md").unlink()
    project.write("d011.md", document(500))
    lines = (project.base / "rows.jsonl").read_text().splitlines()
    del lines[7]  # a document without a name forbids deletes
    (project.base / "rows.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RefusedError, match=r"11 of 31 documents are gone .* limit 10\.0%"):
        project.ingest(runner=runner, max_delete_fraction=0.1)
    assert end_state(project) == before
    (project.base / "rows.jsonl").write_text("\n\n")
    with pytest.raises(SourceError, match="has no document"):
        project.ingest(runner=runner, max_delete_fraction=1.0)
    assert end_state(project) == before


class Late(DirectEngine):
    """Looks at the clock before it begins."""

    def run(self, build: Build, order: Order, watch: Watch) -> None:
        watch.look()
        super().run(build, order, watch)


def test_a_run_that_is_late_before_its_workers_begin_changes_nothing(
    tmp_path: Path, tiny_model: Path, servers: Servers
) -> None:
    project = project_on(servers, tmp_path / "p", tiny_model)
    fill(project)
    project.settings["runner"] = {**_RUNNER, "deadline": 0.001}
    with pytest.raises(DeadlineError, match="what was finished is committed"):
        project.ingest(runner=OnEngine(Late()))
    assert not project.records()
    project.settings["runner"] = _RUNNER
    assert project.ingest(runner=OnEngine(Late())).documents.added == 31


def test_embed_on_an_engine_and_load_at_home(tmp_path: Path, tiny_model: Path, servers: Servers) -> None:
    project = project_on(servers, tmp_path / "p", tiny_model)
    fill(project)
    report = project.ingest(runner=OnEngine(DirectEngine()), load=False)
    assert report.command == "embed"
    assert report.documents.added == 31
    assert load_waiting(project.config, project.base, NoProgress()).exit_code == ExitCode.OK
    project.check_agreement()
