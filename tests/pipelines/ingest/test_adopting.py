"""What a run that died left in the stores: the next run puts it right, whatever became of the documents meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from connectors.memory.sink import MemorySink
from m3core.errors import ExitCode
from pipelines.ingest.deleting import DeleteRequest, delete_documents
from pipelines.ingest.follower import Follower
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.replay import LoadOptions, load_waiting
from pipelines.state.chunks import ChunkFiles
from pipelines.state.manifest import Manifest
from tests.pipelines.histories.world import shown
from tests.pipelines.ingest.outage import TWO, Switchboard
from tests.pipelines.ingest.projects import Project
from tests.pipelines.ingest.test_following import NEW, both, check_agreement, payloads, rows

OLD_TEXT = "The key of the laboratory hangs behind the door, below the lamp."
NEW_TEXT = "The key was moved to the front desk, where the guards keep it."


class KilledError(BaseException):
    """Where a run dies."""


def line(doc_id: str, text: str = OLD_TEXT, acl: str = "staff", year: int = 2000) -> dict[str, Any]:
    return {"doc_id": doc_id, "text": text, "acl": [acl], "metadata": {"year": year}, "tenant": "north"}


@pytest.fixture
def stores(project: Project, monkeypatch: pytest.MonkeyPatch) -> Switchboard:
    """Two documents in two stores."""
    project.settings |= {"stores": TWO, "fields": {"year": "integer"}}
    listed(project, line("a"), line("b"))
    board = Switchboard.install(monkeypatch)
    project.ingest()
    return board


def listed(project: Project, *lines: dict[str, Any]) -> None:
    project.write_lines(lines)
    project.settings["sources"]["rows"] |= {"tenant": "north", "allowed_tenants": ["north"]}
    project.settings["ingest"] = {"min_free_bytes": 1 << 20, "max_delete_fraction": 1.0}


@contextmanager
def dying(owner: type, name: str, nth: int = 1) -> Iterator[None]:
    """The nth call of this method is the last thing that the run does."""
    calls = 0
    original: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise KilledError
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        yield


def killed(project: Project, owner: type, name: str, nth: int = 1) -> None:
    with dying(owner, name, nth):
        try:
            project.ingest()
        except BaseException as error:
            if not isinstance(error, KilledError) and "KilledError" not in str(error):  # Beam's own error
                raise
        else:
            pytest.fail("it did not die")


def check(project: Project, **texts: str) -> None:
    project.check_agreement()
    found = shown(project)
    assert {doc_id: (one.text, one.acl, one.year) for (_, doc_id), one in found.items()} == {
        doc_id: (text, ("staff",), 2000) for doc_id, text in texts.items()
    }
    files = ChunkFiles(project.paths, 1)
    assert files.unsettled(before=10**6) == []


def test_a_version_that_is_taken_back_leaves_the_stores(project: Project, stores: Switchboard) -> None:
    listed(project, line("a", NEW_TEXT), line("b"))
    killed(project, Manifest, "append")
    assert len(project.rows("main")) == 3
    listed(project, line("a"), line("b"))
    report = project.ingest()
    assert (report.exit_code, report.tokens_encoded) == (ExitCode.OK, 0)
    check(project, a=OLD_TEXT, b=OLD_TEXT)


def test_a_new_document_that_is_taken_back_leaves_the_stores(project: Project, stores: Switchboard) -> None:
    listed(project, line("a"), line("b"), line("c", NEW_TEXT))
    killed(project, Manifest, "append")
    listed(project, line("a"), line("b"))
    assert project.ingest().exit_code is ExitCode.OK
    check(project, a=OLD_TEXT, b=OLD_TEXT)
    assert project.ingest().documents.unchanged == 2


def test_a_version_that_changed_again_is_replaced(project: Project, stores: Switchboard) -> None:
    listed(project, line("a", NEW_TEXT), line("b"), line("c"))
    killed(project, Manifest, "append")
    listed(project, line("a", NEW_TEXT + " And more."), line("c", NEW_TEXT))
    project.ingest()
    check(project, a=NEW_TEXT + " And more.", c=NEW_TEXT)


@pytest.mark.parametrize("change", [{"acl": "guests"}, {"year": 1999}])
def test_rights_and_metadata_that_are_taken_back(project: Project, stores: Switchboard, change: dict[str, Any]) -> None:
    listed(project, line("a", **change), line("b"))
    killed(project, Manifest, "append")
    listed(project, line("a"), line("b"))
    assert project.ingest().tokens_encoded == 0
    check(project, a=OLD_TEXT, b=OLD_TEXT)


@pytest.mark.parametrize(("owner", "name", "nth"), [
    (Manifest, "append", 1), (Manifest, "append", 2), (MemorySink, "delete", 1), (MemorySink, "delete", 2),
])  # fmt: skip
def test_a_document_that_left_and_is_back_as_it_was(
    project: Project, stores: Switchboard, owner: type, name: str, nth: int
) -> None:
    listed(project, line("a"))
    killed(project, owner, name, nth)
    listed(project, line("a"), line("b"))
    report = project.ingest()
    assert (report.exit_code, report.tokens_encoded) == (ExitCode.OK, 0)
    check(project, a=OLD_TEXT, b=OLD_TEXT)
    assert project.ingest().documents.unchanged == 2


def test_a_document_that_left_while_the_run_died_leaves_with_the_next_one(
    project: Project, stores: Switchboard
) -> None:
    listed(project, line("a"))
    killed(project, MemorySink, "delete", 2)
    assert project.ingest().exit_code is ExitCode.OK
    check(project, a=OLD_TEXT)


def test_a_document_that_left_a_generation_that_follows_and_is_back(project: Project) -> None:
    both(project)
    project.write_lines(rows(6, d3=None))
    killed(project, Follower, "_settle")
    assert not [one for one in payloads(project, 2).values() if one.doc_id == "d3"]
    project.write_lines(rows(6, d3={"acl": ["board"]}))
    project.ingest()
    check_agreement(project, 1)
    check_agreement(project, 2)
    project.settings["chunking"] = NEW
    project.ingest(build=True)
    check_agreement(project, 2)
    assert {one.acl for one in payloads(project, 2).values() if one.doc_id == "d3"} == {("board",)}


def test_the_same_version_again_costs_no_encoding(project: Project, stores: Switchboard) -> None:
    listed(project, line("a", NEW_TEXT), line("b"))
    killed(project, Manifest, "append")
    assert project.ingest().tokens_encoded == 0
    check(project, a=NEW_TEXT, b=OLD_TEXT)


def test_a_store_that_is_down_is_told_later(project: Project, stores: Switchboard) -> None:
    listed(project, line("a", acl="guests"), line("b"), line("c", NEW_TEXT))
    killed(project, Manifest, "append")
    listed(project, line("a"), line("b"))
    stores.down.add("words")
    assert project.ingest().exit_code is ExitCode.PENDING
    stores.down.clear()
    options = LoadOptions(pending_only=True)
    report = load_waiting(project.config, project.base, NoProgress(), options=options)
    assert report.exit_code is ExitCode.OK
    check(project, a=OLD_TEXT, b=OLD_TEXT)


def test_a_run_that_dies_while_it_adopts_is_adopted_with_the_other(project: Project, stores: Switchboard) -> None:
    listed(project, line("a", NEW_TEXT, acl="guests"), line("b", acl="guests"), line("c"))
    killed(project, Manifest, "append")
    listed(project, line("a"), line("b"))
    killed(project, Manifest, "append")
    killed(project, ChunkFiles, "settle")
    killed(project, MemorySink, "delete")
    project.ingest()
    check(project, a=OLD_TEXT, b=OLD_TEXT)


def test_a_command_that_writes_no_rows_says_that_they_wait(project: Project, stores: Switchboard) -> None:
    listed(project, line("a", acl="guests"), line("b"))
    killed(project, Manifest, "append")
    done = delete_documents(project.config, project.base, NoProgress(), DeleteRequest("north", ("b",)))
    assert done.report is not None
    assert done.report.exit_code is ExitCode.PENDING
    listed(project, line("a"))
    project.ingest()
    check(project, a=OLD_TEXT)


def test_what_a_run_committed_is_not_looked_at_again(project: Project, stores: Switchboard) -> None:
    """Only the last wave of the run that died was not in the manifest."""
    texts = {f"d{number}": "\n\n".join([OLD_TEXT] * 60 + [f"Note {number}."]) for number in range(30)}
    listed(project, *(line(doc_id, text) for doc_id, text in texts.items()))
    project.settings["ingest"]["wave_bytes"] = 1 << 16
    killed(project, Manifest, "append", nth=2)
    committed = {key: one.revision for key, one in project.records().items() if key in texts}
    assert 0 < len(committed) < 30
    project.ingest()
    assert committed.items() <= {key: one.revision for key, one in project.records().items()}.items()
    check(project, **texts)


def test_rights_that_only_another_generation_has_seen(project: Project) -> None:
    both(project)
    project.write_lines(rows(6, d1={"acl": ["board"]}))
    with dying(MemorySink, "flush", nth=4), suppress(KilledError):
        project.ingest()
    assert any(one.acl == ("board",) for one in payloads(project, 2).values())
    project.write_lines(rows(6))
    project.ingest()
    for number in (1, 2):
        check_agreement(project, number)
        assert {one.acl for one in payloads(project, number).values()} == {("board", "staff")}
