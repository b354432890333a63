"""Whole runs of an ingest, in this process: real files, real model, real stores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m3core.errors import DiskFullError, ExitCode, LockedError, RefusedError, SourceError
from m3core.model import Backbone
from pipelines.ingest import working
from pipelines.ingest.embed import UnitLimits
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.run import ingest
from pipelines.ingest.session import IngestOptions
from pipelines.state.collection import read_collection
from pipelines.state.lake import Lake
from pipelines.state.lease import acquire_lease
from pipelines.state.runs import RunFolder, list_runs, read_dead_letters
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, Project, document


def test_the_first_run_brings_every_document_into_every_store(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(8)

    report = project.ingest()

    assert report.documents.as_json() == {
        "listed": 8, "added": 8, "changed": 0, "patched": 0, "deleted": 0, "unchanged": 0, "failed": 0, "pending": 0,
    }  # fmt: skip
    assert report.exit_code is ExitCode.OK
    assert (report.generation, report.run) == (1, 1)
    assert report.chunks_written == len(project.manifest_ids()) > 8
    assert report.tokens_encoded > 0
    project.check_agreement()
    state = read_collection(project.paths)
    assert state is not None
    assert (state.live, state.generations[0].status, state.generations[0].applied_run) == (1, "live", 1)
    assert not (project.paths.run(1) / "work").exists()


def test_the_lakes_index_stays_small_through_a_run_of_many_waves(project: Project) -> None:
    """Every unit looks into every segment of the index: their number must not grow with the waves of the run."""
    segments: list[int] = []

    class Watching(NoProgress):
        def wave(self, number: int) -> None:
            segments.append(len(list(project.paths.root.glob("lake/*/index/*.keys"))))

    project.settings["ingest"] = {"wave_bytes": 1 << 16, "min_free_bytes": 1 << 20}
    project.settings["chunking"] = {"max_tokens": 250}
    project.write_many(60, paragraphs=90)
    report = ingest(project.config, project.base, Watching())
    assert report.documents.added == 60
    waves = len(segments)
    assert waves > 5
    assert len(list(project.paths.root.glob("lake/*/*.parquet"))) >= waves
    assert max(segments) <= 1 + waves.bit_length()


def test_a_second_run_changes_nothing_and_loads_neither_model_nor_beam(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    project.ingest()
    chain = project.base / "m3-data/stores/main/notes/g00001"
    published = (chain / "CURRENT").read_text()

    code = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from m3core.config.model import Config
        from pipelines.ingest.progress import NoProgress
        from pipelines.ingest.run import ingest
        report = ingest(Config.model_validate({project.raw()!r}), Path({str(project.base)!r}), NoProgress())
        assert report.documents.unchanged == report.documents.listed == 3, report
        assert report.run == 2 and report.exit_code == 0, report
        heavy = {{"torch", "apache_beam", "transformers", "qdrant_edge"}} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    assert (chain / "CURRENT").read_text() == published
    assert not (chain / "working").exists()


def test_a_touched_file_with_the_same_content_is_unchanged_and_is_read_only_once(project: Project) -> None:
    project.write_many(3)
    project.ingest()
    before = project.records()
    os.utime(project.docs / "d001.md", ns=(1, 1))

    touched = project.ingest()
    again = project.ingest()

    assert touched.documents.unchanged == again.documents.unchanged == 3
    assert touched.chunks_written == 0
    record = project.records()["d001.md"]
    assert record.stamp != before["d001.md"].stamp
    assert replace(record, stamp="") == replace(before["d001.md"], stamp="")


def test_a_changed_document_loses_its_stale_chunks_and_keeps_the_ids_of_the_others(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(4)
    project.ingest()
    before = project.records()["d002.md"].chunk_ids
    text = document(2).replace("Paragraph 1 of note 2", "A new beginning")
    project.write("d002.md", text)

    report = project.ingest()

    assert (report.documents.changed, report.documents.unchanged) == (1, 3)
    after = project.records()["d002.md"].chunk_ids
    assert set(before) != set(after)
    assert set(before) & set(after)
    assert report.chunks_deleted == len(set(before) - set(after))
    project.check_agreement()


def test_metadata_and_acl_changes_write_rows_without_the_model(project: Project) -> None:
    project.settings["fields"] = {"year": "integer"}
    rows = [{"doc_id": f"r{n}", "text": document(n), "acl": ["staff"], "year": 2000 + n} for n in range(3)]
    project.write_lines(rows)
    project.ingest()
    project.write_lines([{**rows[0], "year": 1999}, {**rows[1], "acl": ["board"]}, rows[2]])

    report = project.ingest()

    assert (report.documents.patched, report.documents.unchanged) == (2, 1)
    assert report.texts_encoded == report.tokens_encoded == 0
    assert report.texts_reused == report.chunks_written
    assert report.tokens_reused > report.texts_reused
    project.check_agreement()
    assert {project.records()[name].revision for name in ("r0", "r1")} == {2}


def test_documents_that_are_gone_leave_the_stores(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(4)
    project.ingest()
    gone = project.records()["d001.md"].chunk_ids
    (project.docs / "d001.md").unlink()

    report = project.ingest()

    assert (report.documents.deleted, report.documents.listed, report.chunks_deleted) == (1, 3, len(gone))
    assert "d001.md" not in project.records()
    project.check_agreement()


def test_too_many_deletes_are_refused_before_anything_changes(project: Project) -> None:
    project.write_many(4)
    project.ingest()
    before = project.records(), project.rows()
    for number in range(3):
        (project.docs / f"d{number:03}.md").unlink()

    with pytest.raises(
        RefusedError, match=r"3 of 4 documents are gone .*75\.0%, limit 50\.0%.*d000\.md, d001\.md, d002"
    ):
        project.ingest()

    assert (project.records(), project.rows()) == before
    report = project.ingest(max_delete_fraction=0.75)
    assert report.documents.deleted == 3
    project.check_agreement()


def test_bad_documents_are_dead_letters_and_the_rest_goes_in(project: Project) -> None:
    project.write_many(2)
    project.write("binary.txt", b"\xfa\x80 not text")
    project.write("empty.md", "  \n")
    project.write("image.png", b"\x89PNG")

    first = project.ingest()
    second = project.ingest()

    assert first.exit_code is ExitCode.DEAD_LETTERS
    assert (first.documents.added, first.documents.failed, first.documents.listed) == (2, 2, 4)
    assert {letter.doc_id for letter in first.dead_letters} == {"binary.txt", "empty.md"}
    assert first.skipped == {"unsupported": 1}
    assert (second.exit_code, second.documents.failed, second.new_dead_letters) == (ExitCode.OK, 2, 0)
    project.check_agreement()

    project.write("empty.md", document(9))
    third = project.ingest()
    assert (third.documents.added, third.documents.failed) == (1, 1)
    assert [letter.doc_id for letter in read_dead_letters(project.paths)] == ["binary.txt"]


def test_a_text_that_does_not_fit_in_memory_alone_is_a_dead_letter_and_the_rest_goes_in(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        project.write(f"short{number}.md", f"the key {number}")
    project.write("long.md", "the key of the laboratory is at the front desk and is handed over " * 12)
    whole = Backbone.__call__

    def small(self: Backbone, token_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        if max(lengths) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, token_ids, lengths)

    monkeypatch.setattr(Backbone, "__call__", small)
    report = project.ingest()

    assert report.exit_code is ExitCode.DEAD_LETTERS
    assert (report.documents.added, report.documents.failed) == (4, 1)
    (letter,) = read_dead_letters(project.paths)
    assert (letter.doc_id, letter.stage) == ("long.md", "encode")
    assert "one text alone does not fit in the device's memory. Remedy: lower chunking.max_tokens" in letter.message
    project.check_agreement()

    monkeypatch.undo()
    assert project.ingest().documents.as_json()["failed"] == 0
    assert "long.md" in project.records()


def test_a_document_whose_new_version_fails_keeps_its_old_one(project: Project) -> None:
    project.write_many(2)
    project.ingest()
    before = project.rows()
    project.write("d001.md", b"\xfa\x80")

    report = project.ingest()

    assert (report.documents.failed, report.documents.unchanged, report.documents.deleted) == (1, 1, 0)
    assert project.rows() == before
    project.check_agreement()


def test_a_line_that_cannot_be_named_keeps_its_source_from_deleting(project: Project) -> None:
    rows = [{"doc_id": f"r{n}", "text": document(n), "acl": ["staff"]} for n in range(3)]
    project.write_lines(rows)
    project.ingest()
    before = project.rows()
    project.write_lines([rows[0], '{"doc_id": "r1", "text": "cut off'])

    report = project.ingest()

    assert (report.documents.failed, report.documents.unchanged, report.documents.deleted) == (1, 1, 0)
    assert project.rows() == before
    assert "stay" in " ".join(report.notes)


def test_a_document_in_two_places_is_taken_once_and_both_places_are_named(project: Project) -> None:
    rows = [{"doc_id": "r0", "text": document(n), "acl": ["staff"]} for n in range(2)]
    project.write_lines(rows)

    report = project.ingest()

    assert (report.documents.added, report.documents.failed, report.documents.listed) == (1, 1, 2)
    message = report.dead_letters[0].message
    assert "rows.jsonl:1" in message
    assert "rows.jsonl:2" in message
    assert project.ingest().documents.unchanged == 1


def test_another_build_is_refused_and_the_message_says_what_changed(project: Project) -> None:
    project.write_many(1)
    project.ingest()
    project.settings["chunking"] = {"max_tokens": 64}
    with pytest.raises(RefusedError, match="chunking settings"):
        project.ingest()
    project.settings["chunking"] = {"max_tokens": 48}
    project.settings["fields"] = {"year": "integer"}
    with pytest.raises(RefusedError, match=r"declared fields \(year\)"):
        project.ingest()
    del project.settings["fields"]
    project.settings["stores"] = EDGE_AND_MEMORY
    with pytest.raises(RefusedError, match=r"stores \(main, rerank\)"):
        project.ingest()
    del project.settings["stores"]
    assert project.ingest().documents.unchanged == 1
    assert list_runs(project.paths) == [1, 2]


def test_a_store_that_lost_its_rows_gets_them_again_from_the_lake(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(3)
    project.ingest()
    rows = project.rows()
    subprocess.run(["rm", "-r", str(project.base / "m3-data/stores")], check=True)

    report = project.ingest()

    assert (report.documents.unchanged, report.tokens_encoded) == (3, 0)
    assert project.rows().keys() == rows.keys()
    project.check_agreement()


def test_an_embedded_store_that_is_filled_again_by_a_run_that_is_stopped_is_not_whole(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(150, paragraphs=6)
    project.ingest()
    rows = project.rows()
    subprocess.run(["rm", "-r", str(project.base / "m3-data/stores")], check=True)

    class Stopping(NoProgress):
        def committed(self, documents: int, text_bytes: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = ingest(project.config, project.base, Stopping(), options=IngestOptions())
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert len(project.rows()) < len(rows)
    assert project.ingest().exit_code is ExitCode.OK
    assert project.rows().keys() == rows.keys()
    project.check_agreement()


def test_vectors_that_the_lake_lost_are_encoded_again(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(2)
    project.ingest()
    rows = project.rows()
    subprocess.run(["rm", "-r", str(project.base / "m3-data/stores"), str(project.paths.root / "lake")], check=True)

    assert project.ingest().tokens_encoded > 0
    assert project.rows().keys() == rows.keys()


def test_a_second_writer_is_told_who_holds_the_lease(project: Project) -> None:
    project.write_many(1)
    with acquire_lease(project.paths), pytest.raises(LockedError, match=f"pid {os.getpid()}"):
        project.ingest()
    assert project.ingest().documents.added == 1


def test_a_run_that_lost_its_lease_commits_nothing_more(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_many(4)
    written = Lake.write_unit

    def lose_the_lease(self: Lake, *args: object) -> object:
        project.paths.lease_file.unlink()
        lease = acquire_lease(project.paths)
        leases.append(lease)
        return written(self, *args)  # type: ignore[arg-type]

    leases: list[object] = []
    monkeypatch.setattr(Lake, "write_unit", lose_the_lease)
    monkeypatch.setattr("pipelines.state.lease.Lease.check", lambda self: self.renew())
    with pytest.raises(LockedError, match="lost"):
        project.ingest()
    assert project.records() == {}
    monkeypatch.undo()
    for lease in leases:
        lease.release()  # type: ignore[attr-defined]
    assert project.ingest().documents.added == 4
    project.check_agreement()


def test_no_room_before_a_wave_says_what_is_needed_and_keeps_what_is_there(project: Project) -> None:
    project.write_many(2)
    project.ingest()
    project.write_many(4)
    project.settings["ingest"] = {"min_free_bytes": 1 << 60}
    with pytest.raises(DiskFullError, match="MiB are needed"):
        project.ingest()
    del project.settings["ingest"]
    assert len(project.rows()) == len(project.manifest_ids())
    assert project.ingest().documents.added == 2
    project.check_agreement()


def test_a_disk_that_fills_up_in_the_middle_keeps_what_was_committed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_many(200)
    calls = 0

    def fail_late(folder: Path, needed: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 14:
            raise DiskFullError("the disk is full", "free some space")

    monkeypatch.setattr("pipelines.ingest.session.require_free", fail_late)
    with pytest.raises(DiskFullError):
        project.ingest()
    monkeypatch.undo()

    committed = len(project.records())
    assert 0 < committed < 200
    failed = RunFolder(project.paths, 1).read_report()
    assert failed is not None
    assert failed["error"]["code"] == "disk-full"
    report = project.ingest()
    assert report.documents.added == 200 - committed
    assert report.documents.unchanged == committed
    project.check_agreement()


def test_a_disk_that_is_really_full(project: Project, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system of 8 MiB cannot be mounted here (that takes root)")
    try:
        project.settings["storage"] = {"path": str(small / "data")}
        project.settings["ingest"] = {"wave_bytes": 1 << 16, "min_free_bytes": 0}
        project.write_many(200)
        ballast = small / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(small).free - (450 << 10)))
        with pytest.raises(DiskFullError, match=r"no space left|disk is full"):
            project.ingest()
        ballast.unlink()
        report = project.ingest()
        assert report.documents.added + report.documents.unchanged == 200
        project.check_agreement()
    finally:
        # Lazily: the memory store may still look at pages of lake files.
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_source_that_cannot_be_listed_stops_the_run(project: Project) -> None:
    project.write_many(2)
    project.ingest()
    before = project.rows()
    project.docs.rename(project.base / "elsewhere")
    with pytest.raises(SourceError):
        project.ingest()
    assert project.rows() == before


def test_bundles_that_run_twice_change_nothing(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(6)
    project.write("empty.md", "")
    report = project.ingest(bundle_repeat=1)
    assert (report.documents.added, report.documents.failed) == (6, 1)
    assert report.chunks_written == len(project.manifest_ids())
    project.check_agreement()
    assert project.ingest(bundle_repeat=1).documents.unchanged == 6


def test_waves_are_bounded_and_each_is_committed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_many(150, paragraphs=6)
    sizes: list[int] = []

    class Watching(NoProgress):
        def committed(self, documents: int, source_bytes: int | None) -> None:
            super().committed(documents, source_bytes)
            sizes.append(len(project.records()))

    ingest(project.config, project.base, Watching())
    assert len(sizes) >= 2
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 150


def test_a_stop_finishes_the_running_unit_and_commits_what_is_finished(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_many(2)
    project.ingest()
    (project.docs / "d001.md").unlink()
    for number in range(2, 100):
        project.write(f"d{number:03}.md", document(number))

    class Stopping(NoProgress):
        def encoded(self, tokens: int, text_bytes: int) -> None:
            super().encoded(tokens, text_bytes)
            os.kill(os.getpid(), 15)

    assert threading.current_thread() is threading.main_thread()

    def small_units(dense_dim: int, multi_dim: int, overhead: int) -> UnitLimits:
        return UnitLimits(dense_dim, multi_dim, overhead, tokens=2000)

    monkeypatch.setattr(working, "UnitLimits", small_units)
    report = ingest(project.config, project.base, Stopping())

    assert report.exit_code is ExitCode.TERMINATED
    assert 0 < report.documents.added < 98
    assert report.documents.pending == 98 - report.documents.added
    assert report.documents.deleted == 0
    assert "d001.md" in project.records()
    project.check_agreement()
    rest = project.ingest()
    assert (rest.documents.added, rest.documents.deleted) == (98 - report.documents.added, 1)
    project.check_agreement()
