"""`m3 embed`, `m3 load`, `m3 ingest --only-acl` and `m3 delete` as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import ExitCode
from pipelines.state.lease import acquire_lease
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.outage import TWO, Switchboard
from tests.pipelines.ingest.projects import Project, document
from tests.pipelines.operate.conftest import configured


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Three documents for two servers; `m3` takes the configuration by itself."""
    made = Project(tmp_path, tiny_model)
    made.docs.mkdir()
    made.settings["stores"] = TWO
    made.write_many(3)
    monkeypatch.setenv("M3_CONFIG", str(configured(made)))
    return made


def asked(m3: M3, *arguments: str, code: ExitCode = ExitCode.OK) -> dict[str, Any]:
    """The one JSON document of a command that ends with `code`."""
    ended = m3(*arguments, "--json")
    assert ended.code == code, ended
    return dict(json.loads(ended.out))


def test_the_two_halves(project: Project, m3: M3) -> None:
    assert asked(m3, "embed", "--dry-run")["documents"]["added"] == 3
    assert not project.paths.root.exists()
    embedded = m3("embed")
    assert (embedded.code, "3 documents to be loaded: m3 load\n" in embedded.out) == (ExitCode.OK, True)
    assert m3("load", "--dry-run").out == "main: 3 documents wait\nwords: 3 documents wait\n"
    assert asked(m3, "load", "--dry-run", "--store", "words")["stores"] == {"words": {"pending": 3}}
    report = asked(m3, "load")
    assert (report["command"], report["listed"], report["tokens"]["encoded"]) == ("load", 3, 0)
    assert asked(m3, "load", "--pending")["chunks"] == {"written": 0, "deleted": 0}
    project.check_agreement()


def test_a_store_that_is_down(project: Project, m3: M3, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Switchboard.install(monkeypatch)
    board.down = {"words"}
    ended = m3("ingest")
    assert ended.code == ExitCode.PENDING
    line = "3 documents wait for store words (store 'words' is switched off). Remedy: m3 load --pending\n"
    assert line in ended.out
    status = asked(m3, "status", code=ExitCode.UNREACHABLE)
    assert status["stores"]["words"]["pending"] == 3
    assert "m3 load --pending" in {fault["remedy"] for fault in status["faults"]}
    assert status["runs"][0]["outcome"] == "pending"
    error = asked(m3, "load", "--pending", code=ExitCode.UNREACHABLE)["error"]
    assert error == {"code": "store", "message": "store 'words' is switched off", "remedy": "switch it on"}
    board.down.clear()
    assert m3("load", "--pending").code == ExitCode.OK
    project.check_agreement()


def test_while_another_run_writes(project: Project, m3: M3) -> None:
    assert m3("embed").code == ExitCode.OK
    with acquire_lease(project.paths):
        for command in (["embed"], ["load"], ["delete", "--tenant", "default", "--doc", "d000.md"]):
            assert m3(*command).code == ExitCode.LOCKED
            assert "pid" in asked(m3, *command, "--if-locked", "skip")["skipped"]


def test_delete_says_that_it_may_come_back(project: Project, m3: M3) -> None:
    names = ["--tenant", "default", "--doc", "d000.md", "--doc", "d009.md"]
    assert m3("delete", *names).code == ExitCode.USAGE
    assert m3("ingest").code == ExitCode.OK
    assert "1 document to be deleted" in m3("delete", *names, "--dry-run").out
    text = m3("delete", *names).out
    assert "1 document deleted, " in text
    assert "not in the collection: d009.md" in text
    assert "comes back with the next m3 ingest; m3 purge keeps it away" in text
    assert set(project.records()) == {"d001.md", "d002.md"}
    found = asked(m3, "delete", *names)
    assert (found["missing"], found["deleted"]) == (["d000.md", "d009.md"], 0)


def test_rights_only(project: Project, m3: M3) -> None:
    assert m3("ingest").code == ExitCode.OK
    project.settings["sources"] = {"docs": {"kind": "folder", "path": "docs", "acl": ["board"]}}
    project.write("d001.md", document(1) + "\nOne paragraph more.\n")
    configured(project)
    report = asked(m3, "ingest", "--only-acl")
    assert (report["command"], report["patched"], report["encoded_texts"]) == ("ingest --only-acl", 3, 0)
    assert asked(m3, "ingest")["changed"] == 1
    project.check_agreement()
