from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from m3core.errors import StateError
from pipelines.state.files import DamagedError
from pipelines.state.paths import StatePaths
from pipelines.state.runs import DeadLetter, RunFolder, list_runs, read_dead_letters

BROKEN = DeadLetter("parse", "acme", "a", "a.md", "document", "it is not UTF-8")
LINE = DeadLetter("list", "", "", "all.jsonl:17", "broken-line", "it is no JSON")


def begin(paths: StatePaths, run: int, *letters: DeadLetter) -> RunFolder:
    folder = RunFolder.create(paths, run, {})
    folder.add_dead_letters(letters)
    return folder


def current(paths: StatePaths) -> dict[str, DeadLetter]:
    return {one.source_path: one for one in read_dead_letters(paths)}


def test_configuration_and_report(paths: StatePaths) -> None:
    assert list_runs(paths) == []
    folder = RunFolder.create(paths, 12, {"collection": {"name": "handbook"}, "format": "toml"})
    assert folder.path == paths.runs / "000012"
    assert folder.read_config() == {"collection": {"name": "handbook"}, "format": "toml"}
    assert folder.read_report() is None
    folder.write_report({"new": 1})
    folder.write_report({"new": 2, "format": 1, "letters": [{"a": None}]})
    assert RunFolder(paths, 12).read_report() == {"new": 2, "format": 1, "letters": [{"a": None}]}
    RunFolder.create(paths, 3, {})
    assert list_runs(paths) == [3, 12]


def test_a_run_number_is_used_once(paths: StatePaths) -> None:
    RunFolder.create(paths, 1, {})
    with pytest.raises(StateError, match="run 1 was begun before") as caught:
        RunFolder.create(paths, 1, {})
    assert "one backup" in caught.value.remedy


def test_a_letter_is_there_as_soon_as_it_was_added(paths: StatePaths) -> None:
    assert list(read_dead_letters(paths)) == []
    folder = begin(paths, 1)
    assert current(paths) == {}
    folder.add_dead_letters([BROKEN])
    folder.add_dead_letters([LINE])
    found = current(paths)
    assert found.keys() == {"a.md", "all.jsonl:17"}
    one = found["a.md"]
    assert one == replace(BROKEN, run=1, first_seen=one.first_seen, last_seen=one.first_seen)
    assert one.first_seen.endswith("Z")


def test_attempts_and_first_seen_go_over_runs(paths: StatePaths) -> None:
    begin(paths, 1, BROKEN).close_dead_letters(complete=True)
    first = current(paths)["a.md"]
    begin(paths, 2, replace(BROKEN, stage="chunk", message="another reason"), BROKEN)  # killed: never closed
    third = begin(paths, 3, replace(BROKEN, stage="encode", error_code="other", message="yet another"))
    before = current(paths)["a.md"]
    third.close_dead_letters(complete=True)
    after = current(paths)["a.md"]
    assert before == after
    assert (after.attempts, after.first_seen, after.run) == (3, first.first_seen, 3)
    assert (after.stage, after.error_code, after.message) == ("encode", "other", "yet another")
    assert after.last_seen > first.last_seen


def test_chunks_of_one_document_are_apart(paths: StatePaths) -> None:
    begin(paths, 1, replace(BROKEN, chunk_id="1"), replace(BROKEN, chunk_id="2"))
    assert [one.chunk_id for one in read_dead_letters(paths)] == ["1", "2"]


def test_a_complete_run_resolves_what_it_did_not_repeat(paths: StatePaths) -> None:
    begin(paths, 1, BROKEN, LINE).close_dead_letters(complete=True)
    begin(paths, 2, LINE).close_dead_letters(complete=True)
    assert current(paths).keys() == {"all.jsonl:17"}
    begin(paths, 3).close_dead_letters(complete=True)
    assert current(paths) == {}
    begin(paths, 4, BROKEN).close_dead_letters(complete=True)
    assert current(paths)["a.md"].attempts == 1, "what was resolved begins anew"


def test_a_partial_run_resolves_only_what_it_names(paths: StatePaths) -> None:
    begin(paths, 1, BROKEN, LINE, replace(BROKEN, doc_id="b", source_path="b.md")).close_dead_letters(complete=True)
    second = begin(paths, 2, replace(BROKEN, doc_id="b", source_path="b.md"))
    second.close_dead_letters(complete=False, resolved=[("acme", "a"), ("acme", "b"), ("other", "c")])
    assert current(paths).keys() == {"all.jsonl:17", "b.md"}, "b failed again in this run"


def test_a_damaged_view_is_named(paths: StatePaths) -> None:
    begin(paths, 1, BROKEN).close_dead_letters(complete=True)
    view = paths.runs / "dead_letters.parquet"
    os.truncate(view, view.stat().st_size - 20)
    with pytest.raises(DamagedError, match=r"dead_letters\.parquet is damaged"):
        list(read_dead_letters(paths))


@pytest.mark.usefixtures("umask_0")
def test_only_the_owner_may_read(paths: StatePaths, modes: Callable[[Path], set[tuple[str, str]]]) -> None:
    folder = begin(paths, 1, BROKEN)
    folder.write_report({})
    folder.close_dead_letters(complete=True)
    assert modes(paths.root) == {("folder", "0o700"), ("file", "0o600")}
