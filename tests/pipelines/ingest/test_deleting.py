"""`m3 delete`: named documents leave every store."""

from __future__ import annotations

import pytest

from m3core.errors import ExitCode
from pipelines.ingest.deleting import Deleted, DeleteRequest, delete_documents, would_delete
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.replay import load_waiting
from pipelines.state.manifest import Manifest
from pipelines.state.runs import list_runs, read_dead_letters
from tests.pipelines.ingest.outage import EDGE_AND_TWO, Switchboard
from tests.pipelines.ingest.projects import Project


@pytest.fixture
def filled(project: Project) -> Project:
    project.settings["stores"] = EDGE_AND_TWO
    project.write_many(4)
    project.ingest()
    return project


def delete(project: Project, *doc_ids: str, tenant: str = "default") -> Deleted:
    return delete_documents(project.config, project.base, NoProgress(), DeleteRequest(tenant, doc_ids))


def test_documents_leave_every_store_and_come_back_if_their_source_has_them(filled: Project) -> None:
    chunks = len(filled.records()["d001.md"].chunk_ids) + len(filled.records()["d002.md"].chunk_ids)
    request = DeleteRequest("default", ("d001.md", "d002.md", "nobody.md"))
    runs = list_runs(filled.paths)
    assert would_delete(filled.config, filled.base, NoProgress(), request).as_json() == {
        "schema_version": 1,
        "command": "delete",
        "dry_run": True,
        "deleted": 2,
        "chunks": {"deleted": chunks},
        "missing": ["nobody.md"],
    }
    assert list_runs(filled.paths) == runs

    done = delete(filled, "d001.md", "d002.md", "d002.md", "nobody.md")
    assert (done.documents, done.chunks, done.missing) == (2, chunks, ("nobody.md",))
    assert done.report is not None
    assert (done.report.exit_code, done.report.documents.deleted) == (ExitCode.OK, 2)
    assert set(filled.records()) == {"d000.md", "d003.md"}
    filled.check_agreement()
    assert delete(filled, "d001.md").missing == ("d001.md",)
    assert delete(filled, "d000.md", tenant="other").missing == ("d000.md",)

    back = filled.ingest()
    assert (back.documents.added, back.tokens_encoded) == (2, 0)
    filled.check_agreement()


def test_a_store_that_is_down_deletes_later(filled: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Switchboard.install(monkeypatch)
    board.down = {"words"}
    done = delete(filled, "d001.md")
    assert done.report is not None
    assert (done.report.exit_code, done.report.stores["words"].pending) == (ExitCode.PENDING, 1)
    assert "d001.md" not in filled.records()
    board.down.clear()
    again = delete(filled, "d001.md")
    assert again.report is not None
    assert (again.report.exit_code, again.missing) == (ExitCode.OK, ("d001.md",))
    filled.check_agreement()
    assert Manifest(filled.paths, 1).counts().pending == {}

    board.down = {"words"}
    delete(filled, "d002.md")
    board.down.clear()
    assert load_waiting(filled.config, filled.base, NoProgress()).documents.deleted == 1
    filled.check_agreement()


def test_dead_letters_of_a_deleted_document_go_too(filled: Project) -> None:
    filled.write("d001.md", b"\xfa\x80")
    filled.write("d002.md", b"\xfa\x80")
    assert filled.ingest().documents.failed == 2
    delete(filled, "d001.md")
    assert [letter.doc_id for letter in read_dead_letters(filled.paths)] == ["d002.md"]
