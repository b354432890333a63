"""`m3 generations`: one is built beside the live one, proves itself, goes live, is rolled back to, is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from connectors.protocol import Sink
from m3core.errors import ExitCode, LockedError, RefusedError, StoreError, UsageError
from pipelines.ingest.deleting import DeleteRequest, delete_documents
from pipelines.ingest.generation import Build, begin_build
from pipelines.ingest.progress import NoProgress
from pipelines.operate.collection import Collection
from pipelines.operate.dropping import KEPT_SECONDS, Dropped, DropRequest, drop
from pipelines.operate.generations import list_generations
from pipelines.operate.promoting import Promoted, PromoteRequest, promote, rollback
from pipelines.operate.proving import Check
from pipelines.operate.stores import stores_of
from pipelines.state.clock import seconds_of
from pipelines.state.collection import CollectionState, begin_run, read_collection
from pipelines.state.lease import acquire_lease
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, Project, document
from tests.pipelines.ingest.test_following import NEW, OLD, about_to_fail
from tests.pipelines.operate.conftest import configured
from tests.pipelines.operate.damage import place_of


def state_of(project: Project) -> CollectionState:
    state = read_collection(project.paths)
    assert state is not None
    return state


def promoted(project: Project, **asked: Any) -> Promoted:
    return promote(PromoteRequest(place_of(project), **asked))


def rolled_back(project: Project, **asked: Any) -> Promoted:
    return rollback(PromoteRequest(place_of(project), **asked))


def dropped(project: Project, number: int, **asked: Any) -> Dropped:
    return drop(DropRequest(place_of(project), number, **asked))


def failed(done: Promoted) -> dict[str, str]:
    """Name and detail of every check that did not pass."""
    assert not done.flipped or done.passed
    return {check.name: check.detail for check in done.checks if not check.passed}


def statuses(project: Project) -> dict[int, str]:
    return {one.number: one.status for one in state_of(project).generations}


@pytest.fixture
def two(project: Project) -> Project:
    """Generation 1 is live, generation 2 is built; the configuration is that of generation 1."""
    project.write_many(5)
    project.settings["chunking"] = OLD
    project.ingest()
    project.settings["chunking"] = NEW
    project.ingest(build=True)
    project.settings["chunking"] = OLD
    return project


def change_store(project: Project, number: int, change: Any) -> None:
    """Behind the back of everybody."""
    state = state_of(project)
    (store,) = stores_of(Collection(place_of(project), state, state.generation(number)))
    with store.sink() as sink:
        change(sink)


def test_promote_flips_and_rollback_flips_back(two: Project) -> None:
    done = promoted(two)
    assert (done.flipped, done.before, done.generation, done.exit_code) == (True, 1, 2, ExitCode.OK)
    assert [check.name for check in done.checks] == ["up to date", "complete", "nothing missing", "store main"]
    state = state_of(two)
    assert (state.live, statuses(two)) == (2, {1: "retired", 2: "live"})
    assert (bool(state.generation(1).retired), state.generation(2).retired) == (True, "")
    back = rolled_back(two)
    assert (back.flipped, back.before, back.generation) == (True, 2, 1)
    assert (state_of(two).live, statuses(two)) == (1, {1: "live", 2: "retired"})
    two.ingest()
    with pytest.raises(UsageError, match="builds no generation"):
        promoted(two)
    assert promoted(two, number=2).flipped


def test_a_dry_run_changes_nothing(two: Project) -> None:
    before = state_of(two)
    done = promoted(two, dry_run=True)
    assert (done.passed, done.flipped) == (True, False)
    assert dropped(two, 2, dry_run=True).bytes > 0
    assert state_of(two) == before


def test_a_right_that_was_revoked_between_build_and_promote_stays_revoked(project: Project) -> None:
    def line(acl: list[str]) -> dict[str, Any]:
        return {"doc_id": "secret", "text": document(1), "acl": acl}

    project.write_lines([line(["staff", "board"]), {"doc_id": "other", "text": document(2), "acl": ["staff"]}])
    project.settings["chunking"] = OLD
    project.ingest()
    project.settings["chunking"] = NEW
    project.ingest(build=True)
    project.settings["chunking"] = OLD
    project.write_lines([line(["board"]), {"doc_id": "other", "text": document(2), "acl": ["staff"]}])
    project.ingest()
    assert promoted(project).flipped
    acls = {}
    change_store(project, 2, lambda sink: acls.update(seen(sink)))
    assert acls == {"secret": {("board",)}, "other": {("staff",)}}
    assert rolled_back(project).flipped
    change_store(project, 1, lambda sink: acls.update(seen(sink)))
    assert acls == {"secret": {("board",)}, "other": {("staff",)}}


def seen(sink: Sink) -> dict[str, set[tuple[str, ...]]]:
    """Acls by document of a memory store."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for row in sink._table.ordered():  # type: ignore[attr-defined]
        found.setdefault(row.chunk.doc_id, set()).add(row.chunk.acl)
    return found


def test_a_document_deleted_while_another_generation_is_built_is_gone_from_both(two: Project) -> None:
    request = DeleteRequest("default", ("d001.md",))
    deleted = delete_documents(two.config, two.base, NoProgress(), request)
    assert deleted.documents == 1
    listed = list_generations(place_of(two)).listed
    assert [(one.counts.documents, one.behind) for one in listed] == [(4, False), (4, False)]
    assert [[store.rows for store in one.stores] for one in listed] == [[one.counts.chunks] for one in listed]
    assert promoted(two).flipped
    assert not state_of(two).is_behind(1)


def test_one_that_is_behind_is_refused_until_a_run_has_ended(two: Project) -> None:
    with acquire_lease(two.paths) as lease:
        begin_run(two.paths, lease)  # a run that was killed: nobody knows what it deleted
    assert failed(promoted(two)).keys() == {"up to date"}
    assert state_of(two).live == 1
    two.ingest()
    assert promoted(two).flipped
    with acquire_lease(two.paths) as lease:
        begin_run(two.paths, lease)
    assert failed(rolled_back(two)).keys() == {"up to date"}
    two.settings["chunking"] = NEW
    two.ingest()
    assert rolled_back(two).flipped


def test_runs_that_mend_leave_nobody_behind(two: Project) -> None:
    with acquire_lease(two.paths) as lease:
        begin_run(two.paths, lease, mending=True)
    assert promoted(two).flipped


def test_a_build_that_was_killed_at_its_begin_is_refused(two: Project) -> None:
    two.settings["chunking"] = {"max_tokens": 64}
    with acquire_lease(two.paths) as lease:
        begin_build(two.paths, lease, Build.of(two.config, two.base), two.config)
    why = failed(promoted(two))
    assert why.keys() == {"up to date", "complete", "nothing missing", "store main"}
    assert "deletes and acl changes of any run" in why["up to date"]
    two.ingest(build=True)
    assert promoted(two).generation == 3
    assert statuses(two) == {1: "retired", 2: "building", 3: "live"}


def test_a_generation_without_a_document_is_never_live(project: Project) -> None:
    about_to_fail(project)
    project.ingest(build=True)
    why = failed(promoted(project, accept_missing=True))
    assert why == {"complete": "it has no document: no search would find anything"}
    project.write_many(2)
    project.ingest(build=True)
    assert promoted(project).flipped


def test_documents_that_only_the_live_generation_has_are_a_reason_to_stay(two: Project) -> None:
    two.write("new.md", document(50))
    two.write("d002.md", document(60))
    two.ingest()
    wanted = "1 document of generation 1 missing and 1 document older than there"
    assert failed(promoted(two)) == {"nothing missing": wanted}
    assert promoted(two, accept_missing=True, dry_run=True).passed
    two.settings["chunking"] = NEW
    two.ingest(build=True)
    assert promoted(two).flipped
    two.write("newer.md", document(70))
    two.ingest()
    # Back in time on purpose.
    assert rolled_back(two).flipped


def test_a_store_that_lost_rows_or_has_other_vectors_is_refused(two: Project) -> None:
    rows: list[Any] = []
    change_store(two, 2, lambda sink: rows.extend(sink._table.ordered()))
    change_store(two, 2, lambda sink: sink.delete([rows[0].chunk.id]))
    assert failed(promoted(two)) == {"store main": f"{len(rows) - 1} rows for {len(rows)} chunks"}
    swapped = type(rows[0])(rows[0].chunk, rows[1].vectors, rows[0].revision)
    change_store(two, 2, lambda sink: sink.write([swapped]))
    assert "have other vectors than the lake" in failed(promoted(two))["store main"]
    change_store(two, 2, lambda sink: sink.write([rows[0]]))
    assert promoted(two).flipped


def test_a_store_that_does_not_answer_is_refused(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> int:
        raise StoreError("store 'main' cannot be reached", "start it")

    monkeypatch.setattr("connectors.memory.searcher.MemorySearcher.count", down)
    assert failed(promoted(two)) == {"store main": "store 'main' cannot be reached"}


def test_gates_are_asked_last_and_only_of_what_is_whole(two: Project) -> None:
    asked: list[int] = []

    def gate(passes: bool) -> Any:
        def check(generation: Any) -> Check:
            asked.append(generation.number)
            return Check("queries", passes, "ndcg@10 0.100 (least 0.5)", "" if passes else "look at them")

        return check

    assert failed(promoted(two, gates=(gate(False),))) == {"queries": "ndcg@10 0.100 (least 0.5)"}
    with acquire_lease(two.paths) as lease:
        begin_run(two.paths, lease)
    promoted(two, gates=(gate(True),))
    assert asked == [2]
    two.ingest()
    assert promoted(two, gates=(gate(True),)).flipped


def test_a_dropped_generation_leaves_its_entry_and_nothing_else(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    project.ingest()
    project.settings["chunking"] = NEW
    project.ingest(build=True)
    place = place_of(project)
    folders = [
        project.paths.chunks(2),
        project.paths.manifest(2),
        place.store_folder("main") / "g00002",
    ]
    assert all(folder.exists() for folder in folders)
    done = dropped(project, 2)
    assert (done.stores, done.exit_code) == ({"main": ""}, ExitCode.OK)
    assert not any(folder.exists() for folder in folders)
    assert statuses(project) == {1: "live", 2: "dropped"}
    assert dropped(project, 2).bytes == 0
    listed = list_generations(place).listed
    assert [(one.generation.status, one.counts.documents) for one in listed] == [("live", 3), ("dropped", 0)]
    with pytest.raises(UsageError, match="generation 2 is dropped"):
        promoted(project, number=2)
    assert project.ingest(build=True).generation == 3


def test_what_is_live_or_was_just_now_is_not_dropped(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted(two)
    with pytest.raises(RefusedError, match="generation 2 is live"):
        dropped(two, 2)
    with pytest.raises(RefusedError, match="was live 0 minutes ago") as caught:
        dropped(two, 1)
    assert "--now" in caught.value.remedy
    with pytest.raises(UsageError, match="has no generation 7, only 1, 2"):
        dropped(two, 7)
    assert dropped(two, 1, dry_run=True, now=True).exit_code is ExitCode.OK
    later = seconds_of(state_of(two).generation(1).retired) + KEPT_SECONDS
    monkeypatch.setattr("pipelines.operate.dropping.time.time", lambda: later)
    dropped(two, 1)
    assert statuses(two) == {1: "dropped", 2: "live"}
    with pytest.raises(UsageError, match="no generation is retained"):
        rolled_back(two)


def test_a_store_that_is_down_keeps_its_part_for_another_try(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(_: object) -> None:
        raise StoreError("store 'main' cannot be reached", "start it")

    with monkeypatch.context() as broken:
        broken.setattr("connectors.memory.sink.MemorySink.drop", down)
        done = dropped(two, 2)
    assert done.exit_code is ExitCode.UNREACHABLE
    assert done.stores == {"main": "store 'main' cannot be reached. Remedy: start it"}
    # A purge must still find it.
    assert statuses(two)[2] == "building"
    assert two.paths.chunks(2).exists()
    assert dropped(two, 2).exit_code is ExitCode.OK
    assert statuses(two)[2] == "dropped"


def test_nothing_is_flipped_or_dropped_while_a_run_is_at_work(two: Project) -> None:
    with acquire_lease(two.paths):
        for change in (lambda: promoted(two), lambda: rolled_back(two), lambda: dropped(two, 2)):
            with pytest.raises(LockedError):
                change()


def test_the_commands(project: Project, m3: M3, tmp_path: Path) -> None:
    project.settings |= {"stores": EDGE, "chunking": OLD}
    project.write_many(3)
    configured(project)
    assert m3("ingest").code == 0
    assert m3("generations", "build").code == ExitCode.REFUSED
    project.settings["chunking"] = NEW
    configured(project)
    refused = m3("ingest")
    assert refused.code == ExitCode.REFUSED
    assert "m3 generations build" in refused.err
    built = m3("generations", "build")
    assert (built.code, "Generation 2 is built" in built.out) == (0, True)
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"query": "Note 1", "relevant": ["d001.md"]}) + "\n")
    gate = ("--queries", questions, "--min")
    high = m3("generations", "promote", *gate, "success@1=1", "--min", "ndcg@10=1", "--as", "default:nobody")
    assert high.code == ExitCode.REFUSED
    assert "queries: 1 asked: success@1 0.000 (least 1), ndcg@10 0.000 (least 1)" in high.err
    dry = m3("generations", "promote", *gate, "recall@100=0.5", "--dry-run", "--json")
    told = json.loads(dry.out)
    assert (dry.code, told["promoted"], [check["passed"] for check in told["checks"]]) == (0, False, [True] * 5)
    assert told["checks"][-1]["detail"] == "1 asked: recall@100 1.000 (least 0.5)"
    listed = json.loads(m3("generations", "list", "--json").out)
    one, two = listed["generations"]
    assert (listed["schema_version"], listed["live"], one["status"], two["status"]) == (1, 1, "live", "building")
    assert (two["documents"], two["stores"]["main"]["rows"], two["behind"]) == (3, two["chunks"], False)
    assert two["bytes"].keys() == {"chunks", "manifest", "main"}
    flip = m3("generations", "promote")
    assert flip.code == 0
    assert "generation 2 is live; generation 1 is retained (m3 generations rollback)" in flip.out
    assert m3("search", "Note 1", "--json").code == 0
    assert m3("generations", "drop", "1").code == ExitCode.REFUSED
    assert "is live" in m3("generations", "rollback").out
    assert m3("generations", "drop", "2", "--now").code == 0
    table = m3("generations", "list").out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["1", "live"], ["2", "dropped"]]


def test_wrong_options_are_told(project: Project, m3: M3, tmp_path: Path) -> None:
    project.write_many(1)
    configured(project)
    assert m3("generations", "list").code == ExitCode.USAGE
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"query": "a"}\n')
    for arguments, said in (
        (("--min", "ndcg@10=0.5"), "--min is given alone"),
        (("--queries", questions), "--queries is given alone"),
        (("--queries", questions, "--min", "ndcg=0.5"), "no such figure"),
        (("--queries", questions, "--min", "ndcg@10=2"), "no number from 0 to 1"),
        (("--queries", questions, "--min", "ndcg@10=0.5"), "questions.jsonl:1 is no question"),
    ):
        ended = m3("generations", "promote", *arguments)
        assert (ended.code, said in ended.err) == (ExitCode.USAGE, True)
