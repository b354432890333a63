"""`m3 status` on real collections: what it counts, what it notices, and that it disturbs nobody."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.snapshots.disk import allocated_bytes
from pipelines.operate import sizes
from pipelines.operate.collection import Place
from pipelines.operate.status import Status
from pipelines.operate.status import status as look
from pipelines.state.lease import acquire_lease
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, Project
from tests.pipelines.operate.conftest import configured


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the share of the disk that is free; one half at first, however full this machine's disk is."""

    def set_free(share: float) -> None:
        monkeypatch.setattr(sizes, "free_bytes", lambda folder: int(share * sizes._disk_total(folder)))

    set_free(0.5)
    return set_free


def status(project: Project) -> Status:
    return look(Place.of(project.config, project.base))


def test_a_collection_on_one_screen(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.write_many(5)
    project.write("bad.txt", b"secret \xff words")
    configured(project)
    assert m3("ingest").code == 3
    chunks = len(project.manifest_ids())

    ended = m3("status")

    assert (ended.code, ended.err) == (0, "")
    assert "secret" not in ended.out
    assert "\x1b" not in ended.out
    lines = ended.out.splitlines()
    assert lines[0].startswith("notes · generation 1 live · ")
    assert lines[0].endswith("1 thing to look at")
    assert lines[1] == "  1 document could not be ingested. Remedy: m3 dead-letters list"
    assert f"documents   5 in {chunks} chunks" in lines
    assert any(line.startswith(f"store       main (qdrant-edge: dense, lexical, multi, text) · {chunks} rows · ")
               for line in lines)  # fmt: skip
    assert any("ingest dead-letters" in line and "+ 5" in line for line in lines)
    assert lines[-1] == "lease       free"


def test_a_disk_that_fills_up_is_told(project: Project, m3: M3, disk: Callable[[float], None]) -> None:
    project.settings["stores"] = EDGE
    project.write_many(1)
    configured(project)
    assert m3("ingest").code == 0
    disk(0.11)
    assert "of the disk is free" not in m3("status").out
    disk(0.08)
    assert "  8% of the disk is free. Remedy: m3 gc, or a larger disk" in m3("status").out.splitlines()


def test_json_has_the_agreed_shape(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.write_many(4)
    configured(project)
    m3("ingest")
    m3("ingest")

    ended = m3("status", "--json")

    assert ended.code == 0
    found = json.loads(ended.out)
    chunks = len(project.manifest_ids())
    assert found.keys() == {
        "schema_version", "collection", "state", "generation", "model", "fingerprints", "documents", "chunks",
        "pending", "dead_letters", "stores", "runs", "bytes", "lease", "faults",
    }  # fmt: skip
    assert (found["schema_version"], found["collection"], found["state"], found["generation"]) == (
        1,
        "notes",
        "live",
        1,
    )
    assert (found["documents"], found["chunks"], found["pending"], found["dead_letters"]) == (4, chunks, 0, 0)
    assert found["stores"] == {
        "main": {
            "kind": "qdrant-edge", "signals": ["dense", "lexical", "multi"], "text": True, "rows": chunks,
            "pending": 0, "error": None,
        }
    }  # fmt: skip
    assert [run["run"] for run in found["runs"]] == [2, 1]
    assert found["runs"][1]["added"] == 4
    assert {run["outcome"] for run in found["runs"]} == {"ok"}
    assert found["bytes"].keys() == {"lake", "chunks", "manifest", "runs", "stores", "free"}
    assert found["bytes"]["lake"] > 0
    assert found["bytes"]["stores"]["main"] > 0
    assert (found["lease"], found["faults"]) == (None, [])


def test_before_the_first_run_there_is_nothing_to_say(project: Project, m3: M3) -> None:
    configured(project)
    assert m3("status").out.startswith("notes holds nothing yet: m3 ingest\n")
    found = json.loads(m3("status", "--json").out)
    assert (found["state"], found["generation"], found["stores"], found["runs"]) == ("empty", None, {}, [])
    assert not (project.base / "m3-data").exists()


def test_it_answers_while_a_run_holds_the_lease(project: Project) -> None:
    project.write_many(3)
    project.ingest()
    with acquire_lease(project.paths) as lease:
        found = status(project)
    assert found.writer is not None
    assert (found.writer.pid, found.writer.since) == (lease.record.owner.pid, lease.record.acquired)
    assert status(project).writer is None


def test_rows_are_counted_in_the_store_and_compared(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(3)
    project.ingest()
    lost = sorted(project.manifest_ids())[:2]
    with project.sink("rerank") as sink:
        sink.delete(lost)
    found = status(project)
    chunks = found.counts.chunks
    assert {store.name: store.rows for store in found.stores} == {"main": chunks, "rerank": chunks - 2}
    assert [fault.remedy for fault in found.faults()] == ["m3 audit"]


def test_a_store_that_does_not_answer_is_a_part_of_the_answer(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    configured(project)
    m3("ingest")
    chain = project.base / "m3-data/stores/main/notes/g00001"
    snapshot = (chain / "CURRENT").read_text().strip()
    shutil.rmtree(chain / snapshot)
    shutil.rmtree(chain / "slots")

    ended = m3("status", "--json")

    assert ended.code == 7
    found = json.loads(ended.out)
    assert found["stores"]["main"]["rows"] is None
    assert found["stores"]["main"]["error"]["code"] == "store"
    assert found["documents"] == 3


def test_runs_that_failed_or_were_killed_are_told_apart(project: Project) -> None:
    project.write_many(10)
    project.ingest()
    for number in range(9):
        (project.docs / f"d{number:03}.md").unlink()
    with pytest.raises(Exception, match="are gone from the source"):
        project.ingest()
    found = status(project)
    assert [(run.run, run.outcome) for run in found.runs] == [(2, "refused"), (1, "ok")]
    assert next(found.faults()).what.startswith("run 2 ended with refused: 9 of 10 documents are gone")
    (project.paths.run(2) / "report.json").unlink()
    assert status(project).runs[0].outcome == "killed"
    with acquire_lease(project.paths):
        assert status(project).runs[0].outcome == "running"


def test_a_file_with_two_names_is_measured_once(tmp_path: Path) -> None:
    (tmp_path / "chunk").write_bytes(b"x" * 10_000)
    before = sizes.disk_bytes(tmp_path)
    os.link(tmp_path / "chunk", tmp_path / "copy")
    assert sizes.disk_bytes(tmp_path) == allocated_bytes(tmp_path) == before > 0


def test_what_disappears_while_it_is_measured_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_bytes(b"x" * 10_000)
    (tmp_path / "gone").write_bytes(b"x" * 10_000)
    before = sizes.disk_bytes(tmp_path)
    original = sizes.os.lstat

    def lstat(path: str) -> object:
        if path.endswith("gone"):
            raise FileNotFoundError(path)
        return original(path)

    monkeypatch.setattr(sizes.os, "lstat", lstat)
    assert 0 < sizes.disk_bytes(tmp_path) == before / 2
    assert sizes.disk_bytes(tmp_path / "nowhere") == 0
