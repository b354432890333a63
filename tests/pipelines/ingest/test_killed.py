"""Runs that die by SIGKILL, in processes of their own: running again ends like a run that nobody disturbed."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from m3core.errors import ExitCode
from tests.pipelines.ingest.ingest_process import IngestProcess
from tests.pipelines.ingest.projects import EDGE, Project, document

_SECONDS = 300

# Where a run commits something, in the order of a run.
_LAKE = "pipelines.state.lake:Lake.write_unit"
_CHUNKS = "pipelines.state.chunks:ChunkFiles.write"
_MANIFEST = "pipelines.state.manifest:Manifest.append"
_COMPACT = "pipelines.state.manifest:Manifest.compact"
_WRITE = "connectors.qdrant.edge.sink:EdgeSink.write"
_DELETE = "connectors.qdrant.edge.sink:EdgeSink.delete"
_PUBLISH = "connectors.qdrant.edge.sink:EdgeSink.publish"
_LIVE = "pipelines.ingest.running:finish"
_LETTERS = "pipelines.state.runs:RunFolder.close_dead_letters"


@pytest.fixture
def changing(project: Project) -> Project:
    """A published collection whose sources have changed since: new, changed, gone, bad documents in several waves."""
    project.settings["stores"] = EDGE
    project.settings["ingest"] = {"wave_bytes": 1 << 16, "min_free_bytes": 1 << 20, "max_delete_fraction": 0.5}
    project.write_many(8)
    project.ingest()
    (project.docs / "d001.md").unlink()
    project.write("d002.md", document(2).replace("Paragraph 1 of note 2", "A new beginning"))
    for number in range(8, 120):
        project.write(f"d{number:03}.md", document(number))
    project.write("empty.md", "")
    return project


def undisturbed(project: Project, base: Path) -> Project:
    """The same project, copied as it is now and brought up to date in one run."""
    copy = Project(base / "undisturbed", project.model, project.settings)
    shutil.copytree(project.base, copy.base, ignore=shutil.ignore_patterns("undisturbed"))
    copy.ingest()
    return copy


def killed_at(project: Project, point: str) -> None:
    """Run until the point, where the process must die."""
    process = IngestProcess.start(project.raw(), project.base, f"{point}:SIGKILL")
    assert process.wait(_SECONDS) == -signal.SIGKILL, process.said


def check_same(project: Project, reference: Project) -> None:
    """The same ids, documents and counts, and everything in agreement."""
    project.check_agreement()
    assert project.rows().keys() == reference.rows().keys()
    mine, others = project.records(), reference.records()
    assert {name: record.chunk_ids for name, record in mine.items()} == {
        name: record.chunk_ids for name, record in others.items()
    }


def test_a_run_killed_four_times_ends_like_an_undisturbed_one(changing: Project, tmp_path: Path) -> None:
    reference = undisturbed(changing, tmp_path)
    before = changing.rows()
    for point in (f"{_LAKE}:after:1", f"{_MANIFEST}:after:1", f"{_PUBLISH}:before:1"):
        killed_at(changing, point)
        assert changing.rows() == before
    killed_at(changing, f"{_LIVE}:before:1")
    assert changing.rows().keys() == reference.rows().keys()

    report = changing.ingest()

    assert (report.tokens_encoded, report.documents.failed) == (0, 1)
    check_same(changing, reference)
    assert changing.ingest().documents.unchanged == len(reference.records())


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("place", [_LAKE, _CHUNKS, _MANIFEST, _COMPACT, _WRITE, _DELETE, _PUBLISH, _LIVE, _LETTERS])
def test_a_kill_at_every_commit(changing: Project, tmp_path: Path, place: str, number: int, when: str) -> None:
    reference = undisturbed(changing, tmp_path)
    process = IngestProcess.start(changing.raw(), changing.base, f"{place}:{when}:{number}:SIGKILL")
    assert process.wait(_SECONDS) in (-signal.SIGKILL, ExitCode.DEAD_LETTERS), process.said
    changing.rows()
    changing.ingest()
    check_same(changing, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(12))
def test_kills_at_any_moment(changing: Project, tmp_path: Path, seed: int) -> None:
    reference = undisturbed(changing, tmp_path)
    chance = random.Random(seed)
    for _ in range(4):
        started = IngestProcess.start(changing.raw(), changing.base)
        time.sleep(chance.uniform(0.1, 4))
        started.process.kill()
        started.wait(_SECONDS)
        changing.rows()
    changing.ingest()
    check_same(changing, reference)


def test_sigterm_ends_a_process_with_143_and_what_is_finished_is_in(changing: Project) -> None:
    process = IngestProcess.start(changing.raw(), changing.base, f"{_LAKE}:after:1:SIGTERM")
    assert process.wait(_SECONDS) == ExitCode.TERMINATED, process.said
    assert "stopping (SIGTERM)" in process.said
    counts = process.report
    assert counts["pending"] > 0
    assert counts["added"] + counts["changed"] + counts["pending"] + counts["failed"] >= 112
    assert "d001.md" in changing.records()
    changing.check_agreement()
    assert changing.ingest().documents.deleted == 1
    changing.check_agreement()


@pytest.mark.parametrize("point", [f"{_MANIFEST}:after:1", f"{_PUBLISH}:before:1", f"{_LIVE}:before:1"])
def test_a_load_that_is_killed_is_repeated(changing: Project, tmp_path: Path, point: str) -> None:
    reference = undisturbed(changing, tmp_path)
    embedded = IngestProcess.start(changing.raw(), changing.base, "", "embed")
    assert embedded.wait(_SECONDS) == ExitCode.DEAD_LETTERS, embedded.said
    process = IngestProcess.start(changing.raw(), changing.base, f"{point}:SIGKILL", "load")
    assert process.wait(_SECONDS) == -signal.SIGKILL, process.said
    again = IngestProcess.start(changing.raw(), changing.base, "", "load")
    assert again.wait(_SECONDS) == ExitCode.OK, again.said
    assert again.report["tokens"]["encoded"] == 0
    check_same(changing, reference)
    assert changing.ingest().chunks_written == 0


def test_sigterm_ends_a_load_with_143_and_the_next_one_goes_on(changing: Project, tmp_path: Path) -> None:
    reference = undisturbed(changing, tmp_path)
    IngestProcess.start(changing.raw(), changing.base, "", "embed").wait(_SECONDS)
    process = IngestProcess.start(changing.raw(), changing.base, f"{_MANIFEST}:after:1:SIGTERM", "load")
    assert process.wait(_SECONDS) == ExitCode.TERMINATED, process.said
    done, waiting = process.report["unchanged"], process.report["stores"]["main"]["pending"]
    assert done > 0
    assert waiting > 0
    assert IngestProcess.start(changing.raw(), changing.base, "", "load").wait(_SECONDS) == ExitCode.OK
    check_same(changing, reference)
