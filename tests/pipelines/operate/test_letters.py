"""Dead letters by hand, on collections whose documents really fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from m3core.errors import ExitCode, LockedError, UsageError
from pipelines.operate.collection import Place
from pipelines.operate.letters import Letter, drop, find_letters, list_letters, replay
from pipelines.state.collection import read_collection
from pipelines.state.lease import acquire_lease
from pipelines.state.runs import DeadLetter, RunFolder, read_dead_letters
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import Project
from tests.pipelines.operate.conftest import configured


def place(project: Project) -> Place:
    return Place.of(project.config, project.base)


def letters(project: Project, *names: str) -> None:
    """A run that left these letters, without running."""
    folder = RunFolder.create(project.paths, 1, {})
    folder.add_dead_letters([DeadLetter("read", "default", name, name, "document", "it is empty") for name in names])


def test_list_show_and_drop_on_the_command_line(project: Project, m3: M3) -> None:
    configured(project)
    letters(project, "a.md", "b.md\x1b[31m\u202e", "c.md")
    listed = m3("dead-letters", "list", "--limit", "2")
    assert listed.code == 0
    assert listed.out.startswith("3 dead letters\n")
    assert listed.out.endswith("... and 1 more: --limit 0\n")
    assert "\x1b" not in listed.out
    assert "\u202e" not in listed.out
    found = json.loads(m3("dead-letters", "list", "--json").out)
    assert (found["schema_version"], found["total"], len(found["letters"])) == (1, 3, 3)
    first = found["letters"][0]
    assert (first["doc_id"], first["stage"], first["error"], first["attempts"]) == ("a.md", "read", "document", 1)
    shown = m3("dead-letters", "show", first["id"][:6])
    assert "message     it is empty\n" in shown.out
    assert json.loads(m3("dead-letters", "show", first["id"], "--json").out) == {"schema_version": 1, **first}
    assert m3("dead-letters", "drop", first["id"], "--dry-run").out == "1 dead letter would be forgotten\n"
    assert list_letters(place(project)).total == 3
    assert m3("dead-letters", "drop", first["id"]).out == "1 dead letter forgotten\n"
    assert [one.doc_id for one in read_dead_letters(project.paths)] == ["b.md\x1b[31m\u202e", "c.md"]
    assert m3("dead-letters", "drop", "--all").code == 0
    assert json.loads(m3("dead-letters", "list", "--json").out)["letters"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drop"], "which dead letters is not said"),
        (["replay", "--all", "abcd"], "both ids and --all are given"),
        (["show", "ab"], "dead letter id 'ab' is too short"),
        (["drop", "ffffffffffff"], "no dead letter has the id 'ffffffffffff'"),
    ],
)
def test_mistakes_end_with_2(project: Project, m3: M3, arguments: list[str], said: str) -> None:
    configured(project)
    letters(project, "a.md")
    ended = m3("dead-letters", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert list_letters(place(project)).total == 1


def test_an_id_is_of_what_failed_and_a_prefix_must_name_one(project: Project) -> None:
    letters(project, *(f"{number}.md" for number in range(300)))
    ids = {one.id for one in list_letters(place(project)).letters}
    assert len(ids) == 300
    one = DeadLetter("read", "t", "d", "p", "e", "m")
    assert Letter.of(one).id == Letter.of(DeadLetter("load", "t", "d", "p", "other", "n", attempts=9)).id
    assert Letter.of(one).id != Letter.of(DeadLetter("read", "t", "d", "p", "e", "m", chunk_id="c")).id
    assert {found.id for found in find_letters(place(project), sorted(ids))} == ids


def test_forgotten_letters_of_several_runs_stay_forgotten_and_others_keep_their_counts(project: Project) -> None:
    letters(project, "a.md", "b.md")
    RunFolder.create(project.paths, 2, {}).add_dead_letters(
        [DeadLetter("read", "default", name, name, "document", "it is empty") for name in ("a.md", "b.md")]
    )
    wanted = next(one.id for one in list_letters(place(project)).letters if one.letter.doc_id == "a.md")
    assert drop(place(project), [wanted]) == 1
    kept = list(read_dead_letters(project.paths))
    assert [(one.doc_id, one.attempts, one.run) for one in kept] == [("b.md", 2, 2)]
    RunFolder.create(project.paths, 3, {}).add_dead_letters(
        [DeadLetter("read", "default", "a.md", "a.md", "document", "it is empty")]
    )
    assert [(one.doc_id, one.attempts) for one in read_dead_letters(project.paths)] == [("a.md", 1), ("b.md", 2)]


def test_nothing_is_forgotten_while_a_run_is_at_work(project: Project) -> None:
    letters(project, "a.md")
    with acquire_lease(project.paths), pytest.raises(LockedError):
        drop(place(project), None)
    assert list_letters(place(project)).total == 1


def test_a_dropped_letter_alarms_again(project: Project) -> None:
    project.write_many(1)
    project.write("empty.md", "")
    assert project.ingest().exit_code is ExitCode.DEAD_LETTERS
    assert project.ingest().exit_code is ExitCode.OK
    assert drop(place(project), None) == 1
    assert project.ingest().exit_code is ExitCode.DEAD_LETTERS


def test_replay_mends_a_document_that_no_run_would_read_again(project: Project) -> None:
    """Its chunk file is gone, a store lost its rows, and its source is as it was: only a letter per run came of it."""
    project.write_many(2)
    project.ingest()
    shutil.rmtree(project.paths.chunks(1))
    with project.sink() as sink:
        sink.delete(sorted(project.manifest_ids()))  # an empty store counts as lost
    assert project.ingest().exit_code is ExitCode.DEAD_LETTERS
    assert [one.stage for one in read_dead_letters(project.paths)] == ["restore", "restore"]
    assert project.rows() == {}

    assert replay(place(project), None, dry_run=True).restored == 2
    assert {record.stamp for record in project.records().values()} != {""}
    done = replay(place(project), None)

    assert (done.letters, done.restored) == (2, 2)
    assert list_letters(place(project)).total == 2
    report = project.ingest()
    assert (report.exit_code, report.tokens_encoded) == (ExitCode.OK, 0)
    assert list_letters(place(project)).total == 0
    project.check_agreement()


def test_replay_of_a_document_that_is_read_anyway_takes_no_run(project: Project) -> None:
    project.write_many(1)
    project.write("empty.md", "")
    project.ingest()
    done = replay(place(project), None)
    assert (done.letters, done.restored) == (1, 0)
    state = read_collection(project.paths)
    assert state is not None
    assert state.run == 1


def test_replay_before_the_first_run_is_a_mistake(project: Project) -> None:
    letters(project, "a.md")
    with pytest.raises(UsageError, match="holds nothing yet"):
        replay(place(project), None)


def test_configuration_is_found_like_everywhere(here: Path, m3: M3) -> None:
    ended = m3("dead-letters", "list", "-c", here / "nowhere.toml")
    assert ended.code == 2
