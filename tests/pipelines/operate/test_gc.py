"""`m3 gc`: what nothing needs goes after its time; what anything needs stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from connectors.memory.sink import MemorySink
from m3core.errors import LockedError, RefusedError, StoreError
from pipelines.operate.gc import Collected, GcRequest, gc
from pipelines.operate.promoting import PromoteRequest, promote, rollback
from pipelines.state.collection import read_collection
from pipelines.state.lease import acquire_lease
from pipelines.state.runs import list_runs
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, Project, document
from tests.pipelines.operate.conftest import configured
from tests.pipelines.operate.damage import audited, place_of, spoil

_DAY = 86_400.0


def collected(project: Project, days: float, **asked: object) -> Collected:
    """Collect as if so many days had passed."""
    return gc(GcRequest(place_of(project), now=time.time() + days * _DAY, **asked))  # type: ignore[arg-type]


@pytest.fixture
def changed(project: Project) -> Project:
    """Four documents; one was rewritten since, one removed, one never changed."""
    project.settings["stores"] = EDGE
    project.write_many(4)
    project.ingest()
    project.write("d001.md", document(91))
    (project.docs / "d002.md").unlink()
    project.ingest()
    return project


def test_unused_rows_go_after_their_time_and_the_rest_is_as_it_was(changed: Project) -> None:
    before = audited(changed, sample=100)
    assert before.lake.unreferenced > 0
    records, rows = changed.records(), changed.rows()
    stale = before.expected.chunk_rows - before.expected.chunks

    early = collected(changed, 29)
    assert (early.lake_rows.count, early.chunk_rows.count) == (0, 0)
    seen = collected(changed, 31, dry_run=True)
    assert (seen.lake_rows.count, seen.chunk_rows.count) == (before.lake.unreferenced, stale)
    assert audited(changed).lake.unreferenced == before.lake.unreferenced
    done = collected(changed, 31)

    assert (done.lake_rows.count, done.chunk_rows.count) == (seen.lake_rows.count, seen.chunk_rows.count)
    assert done.lake_rows.bytes > 0
    after = audited(changed, sample=100)
    assert after.clean, after.as_json()
    assert (after.lake.unreferenced, after.lake.rows) == (0, after.expected.chunks)
    assert after.expected.chunk_rows == after.expected.chunks
    assert (changed.records(), changed.rows()) == (records, rows)
    again = collected(changed, 31)
    assert (again.lake_rows.count, again.chunk_rows.count, again.lake_rows.bytes) == (0, 0, 0)
    report = changed.ingest()
    assert (report.documents.unchanged, report.tokens_encoded) == (3, 0)


def test_a_text_that_comes_back_in_time_is_not_encoded_again(changed: Project) -> None:
    collected(changed, 29)
    changed.write("d002.md", document(2))
    report = changed.ingest()
    assert (report.documents.added, report.tokens_encoded, report.tokens_reused > 0) == (1, 0, True)


def test_rows_that_wait_for_a_store_are_needed(changed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that died after its manifest and before its flip: its rows are in the lake and in no store."""
    from connectors.qdrant.edge.sink import EdgeSink

    changed.write("d050.md", document(50))
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(EdgeSink, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            changed.ingest()
    collected(changed, 400)
    report = changed.ingest()
    assert (report.tokens_encoded, report.documents.failed) == (0, 0)
    assert "d050.md" in changed.records()
    changed.check_agreement()
    assert audited(changed, sample=100).clean


def test_old_runs_go_but_not_the_last_nor_unfolded_letters_nor_receipts(project: Project, m3: M3) -> None:
    configured(project)
    project.write_many(2)
    project.write("bad.md", "")
    for _ in range(4):
        project.ingest()
    (project.paths.run(2) / "receipt.json").write_text("{}")
    letters = json.loads(m3("dead-letters", "list", "--json").out)["letters"]
    assert collected(project, 89).runs.count == 0
    assert collected(project, 91, dry_run=True).runs.count == 2
    done = collected(project, 91)
    assert (done.runs.count, done.runs.bytes > 0, list_runs(project.paths)) == (2, True, [2, 4])
    assert json.loads(m3("dead-letters", "list", "--json").out)["letters"] == letters
    assert project.ingest().new_dead_letters == 0
    assert m3("status").code == 0


def test_leftovers_of_killed_processes_go(changed: Project) -> None:
    root = changed.paths.root
    old = time.time() - 40 * _DAY
    folder = root.parent.parent / "stores" / "main" / "notes" / "g00001"
    (folder / "s000000").mkdir()
    (folder / "s000000" / "data").write_bytes(b"x" * 100_000)
    left = [
        root / "lake" / ".tmp-unit",
        changed.paths.runs / "x.parquet.damaged",
        changed.paths.run(1) / "work" / "listing",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 5000)
        os.utime(path, (old, old))
    young = root / "lake" / ".tmp-young"
    young.write_bytes(b"x")
    seen = collected(changed, 0, dry_run=True)
    assert (seen.leftovers.count, all(path.exists() for path in left)) == (3, True)
    done = collected(changed, 0)
    assert done.leftovers.count == 3
    assert done.leftovers.bytes > 100_000
    assert not any(path.exists() for path in left)
    assert young.exists()
    assert not (folder / "s000000").exists()
    assert audited(changed).clean


def test_nothing_is_collected_while_it_is_not_known_what_is_needed(changed: Project) -> None:
    with acquire_lease(changed.paths), pytest.raises(LockedError):
        collected(changed, 400, dry_run=True)
    path = next(changed.paths.chunks(1).rglob("*.parquet"))
    spoil(path)
    files = sorted((changed.paths.root / "lake").glob("*/*.parquet"))
    with pytest.raises(RefusedError, match="what they name in the lake is not known"):
        collected(changed, 400)
    assert sorted((changed.paths.root / "lake").glob("*/*.parquet")) == files


def test_the_command(changed: Project, m3: M3, tmp_path: Path) -> None:
    configured(changed)
    assert m3("gc", "--dry-run").out.endswith("would be freed\n")
    now = json.loads(m3("gc", "--lake-days", "0", "--json").out)
    assert now["lake_rows"]["count"] > 0
    kinds = ("generations", "lake_rows", "chunk_rows", "runs", "leftovers")
    assert now["bytes"] == sum(now[name]["bytes"] for name in kinds)
    assert m3("audit").code == 0


def test_a_generation_that_a_store_keeps_is_not_counted_and_keeps_its_vectors(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_many(3)
    project.ingest()
    for tokens in (64, 96):
        project.settings["chunking"] = {"max_tokens": tokens}
        project.ingest(build=True)
        assert promote(PromoteRequest(place_of(project))).flipped

    def refuse(sink: MemorySink) -> None:
        raise StoreError("store 'main' is switched off", "switch it on")

    monkeypatch.setattr(MemorySink, "drop", refuse)
    done = collected(project, 400)
    assert (done.generations.count, done.generations.bytes, done.lake_rows.count) == (0, 0, 0)
    monkeypatch.undo()
    done = collected(project, 400)
    assert done.generations.count == 1
    assert done.lake_rows.count > 0


def test_one_retired_generation_stays_and_its_vectors_too(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    project.ingest()
    for tokens in (64, 96):
        project.settings["chunking"] = {"max_tokens": tokens}
        project.ingest(build=True)
        assert promote(PromoteRequest(place_of(project))).flipped
    folders = [place_of(project).store_folder("main") / f"g0000{number}" for number in (1, 2, 3)]
    assert collected(project, 0).generations.count == 0  # cursors may still need it
    seen = collected(project, 1, dry_run=True)
    assert (seen.generations.count, [folder.exists() for folder in folders]) == (1, [True] * 3)
    done = collected(project, 31)
    assert (done.generations.count, done.generations.bytes > 0) == (1, True)
    assert [folder.exists() for folder in folders] == [False, True, True]
    state = read_collection(project.paths)
    assert state is not None
    assert [one.status for one in state.generations] == ["dropped", "retired", "live"]
    assert collected(project, 31).generations.count == 0
    assert audited(project, sample=50).clean
    assert rollback(PromoteRequest(place_of(project))).flipped  # all its vectors are there
    folders[0].mkdir()
    (folders[0] / "left").write_bytes(b"x" * 5000)
    assert collected(project, 0).generations.bytes >= 5000
    assert not folders[0].exists()
