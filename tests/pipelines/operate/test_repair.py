"""`m3 repair`: stores damaged by hand are mended without the model, and a second audit is clean."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.protocol import Patch
from m3core.errors import ExitCode, LockedError, RefusedError, UsageError
from m3core.model import Backbone
from pipelines.operate.mending import RepairRequest
from pipelines.operate.mending import repair as mend
from pipelines.operate.repair import Repaired
from pipelines.operate.repair_plan import Plan
from pipelines.state.collection import read_collection
from pipelines.state.lease import acquire_lease
from pipelines.state.runs import list_runs
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, Project
from tests.pipelines.operate.conftest import configured
from tests.pipelines.operate.damage import (
    audited,
    change,
    foreign,
    lake_files,
    opposite,
    place_of,
    spoil,
    stored_rows,
)


def repaired(project: Project, **asked: object) -> tuple[Plan, Repaired | None]:
    values: dict[str, object] = {"max_delete_fraction": 1.0, "sample": 10_000}
    return mend(RepairRequest(place_of(project), **{**values, **asked}))  # type: ignore[arg-type]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, a forward pass is a failure of the test."""

    def forbid() -> None:
        def forward(*_: object) -> None:
            raise AssertionError("the model was run")

        monkeypatch.setattr(Backbone, "__call__", forward)

    return forbid


def test_a_store_damaged_in_every_way_is_mended_and_the_next_ingest_has_nothing_to_do(
    project: Project, no_model: Callable[[], None]
) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(6)
    project.ingest()
    no_model()
    rows = stored_rows(project)
    lost, old, turned, alien, wrong = (project.records()[f"d{number:03}.md"].chunk_ids[0] for number in range(5))
    late = project.records()["d005.md"].chunk_ids[1]
    change(project, "rerank", lambda sink: sink.delete([lost]))
    damaged = [replace(rows[old], revision=0), foreign(rows[alien]), opposite(rows[turned])]
    change(project, "rerank", lambda sink: sink.write([*damaged, replace(rows[late], revision=9)]))
    change(project, "main", lambda sink: sink.patch([Patch(wrong, {}, ("intruder",), revision=1)]))
    change(project, "main", lambda sink: sink.delete([alien]))
    assert not audited(project).clean

    plan, done = repaired(project)

    assert done is not None
    assert plan.stores == {"main", "rerank"}
    renewed = len(project.records()["d005.md"].chunk_ids)
    assert done.written == {"main": 2 + renewed, "rerank": 3 + renewed}
    assert (done.deleted, done.renewed, done.reread) == ({"rerank": 1}, 1, 0)
    assert done.run == 10  # later than the row of run 9, which a store that fences would not give up for less
    assert done.exit_code is ExitCode.OK
    second = audited(project, sample=10_000)
    assert second.clean, second.as_json()
    assert project.records()["d005.md"].revision == 10
    assert project.records()["d004.md"].revision == 1
    project.check_agreement()
    assert (project.paths.run(10) / "repair.jsonl").exists()
    report = project.ingest()
    assert (report.documents.unchanged, report.chunks_written, report.tokens_encoded) == (6, 0, 0)


def test_lost_vectors_are_left_to_the_next_ingest(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    project.ingest()
    (lake_file,) = lake_files(project)
    spoil(lake_file)

    _, done = repaired(project)

    assert done is not None
    assert (done.moved, done.reread, done.exit_code) == (1, 3, ExitCode.PENDING)
    assert not lake_file.exists()
    waiting = audited(project)
    assert waiting.clean, waiting.as_json()
    assert len(project.rows()) == len(project.manifest_ids())  # still there to be searched
    report = project.ingest()
    assert (report.exit_code, report.tokens_encoded > 0, report.documents.unchanged) == (ExitCode.OK, True, 3)
    project.check_agreement()
    assert audited(project).clean


def test_lost_chunk_rows_are_left_to_the_next_ingest_too(project: Project, no_model: Callable[[], None]) -> None:
    project.write_many(2)
    project.ingest()
    for path in project.paths.chunks(1).rglob("*.parquet"):
        spoil(path)
    no_model()
    _, done = repaired(project)
    assert done is not None
    assert (done.moved > 0, done.reread) == (True, 2)
    assert audited(project).clean
    report = project.ingest()
    assert (report.tokens_encoded, report.tokens_reused > 0) == (0, True)
    assert audited(project).clean


def test_a_plan_is_written_read_by_people_and_carried_out(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.settings["ingest"] = {"wave_bytes": 1 << 16, "min_free_bytes": 1 << 20, "max_delete_fraction": 0.01}
    project.write_many(4)
    configured(project)
    m3("ingest")
    rows = stored_rows(project)
    stranger = foreign(rows[min(rows)])
    change(project, "main", lambda sink: sink.delete([max(rows)]))
    change(project, "main", lambda sink: sink.write([stranger]))
    file = project.base / "plan.jsonl"
    before = project.rows()

    planned = m3("repair", "--dry-run", "--plan", file, "--max-delete-fraction", "0.5")

    assert (planned.code, planned.err) == (0, "")
    assert planned.out == "main: 1 extra\nmain: 1 missing\n"
    assert (file.stat().st_mode & 0o777, project.rows(), list_runs(project.paths)) == (0o600, before, [1])
    header, *findings = map(json.loads, file.read_text().splitlines())
    assert (header["plan"], header["collection"], header["run"]) == ("threefold.repair", "notes", 1)
    assert {(one["kind"], one["id"]) for one in findings} == {("missing", max(rows)), ("extra", stranger.chunk.id)}
    refused = m3("repair", "--plan", file)
    assert refused.code == 5
    assert f"1 of {len(rows)} rows of store main belong to no document" in refused.err
    assert project.rows() == before
    done = m3("repair", "--plan", file, "--max-delete-fraction", "0.5", "--json")
    result = json.loads(done.out)
    assert (done.code, result["written"], result["deleted"], result["run"]) == (0, {"main": 1}, {"main": 1}, 2)
    assert m3("audit").code == 0
    stale = m3("repair", "--plan", file, "--max-delete-fraction", "0.5")
    assert stale.code == 5
    assert "was made after run 1, and run 2 has changed the collection since" in stale.err
    assert m3("repair").out == "nothing to mend\n"
    assert list_runs(project.paths) == [1, 2]
    assert json.loads(m3("status", "--json").out)["runs"][0]["command"] == "repair"


def test_what_is_no_plan_is_refused(project: Project, tmp_path: Path) -> None:
    project.write_many(1)
    project.ingest()
    file = tmp_path / "plan"
    with pytest.raises(UsageError, match="is not there"):
        repaired(project, plan=file)
    good = {"plan": "threefold.repair", "format": 1, "collection": "notes", "generation": 1, "run": 1}
    for header, said in [
        ("", "is no plan of this version"),
        ("[]", "is no plan of this version"),
        (json.dumps({**good, "format": 2}), "is no plan of this version"),
        (json.dumps({**good, "collection": "other"}), "is for collection 'other'"),
        (json.dumps(good) + '\n{"store": "main"}', ":2 is no finding of an audit"),
        (json.dumps(good) + '\n{"store": "main", "kind": "rm", "id": "x"}', "has the unknown kind 'rm'"),
    ]:
        file.write_text(header + "\n")
        with pytest.raises(UsageError, match=said):
            repaired(project, plan=file)
    away = project.base / "precious.parquet"
    away.write_bytes(b"not ours")
    file.write_text(json.dumps(good) + '\n{"store": "", "kind": "corrupt_file", "id": "../../../precious.parquet"}\n')
    _, done = repaired(project, plan=file)
    assert done is not None
    assert (done.moved, away.read_bytes()) == (0, b"not ours")


def test_a_run_at_work_and_too_many_deletes_stop_it_before_anything_changes(project: Project) -> None:
    project.write_many(2)
    project.ingest()
    rows = stored_rows(project)
    change(project, "main", lambda sink: sink.write([foreign(row) for row in rows.values()]))
    with acquire_lease(project.paths), pytest.raises(LockedError):
        repaired(project)
    with pytest.raises(RefusedError, match=r"belong to no document \(50.0%, limit 49.0%\)"):
        repaired(project, max_delete_fraction=0.49)
    state = read_collection(project.paths)
    assert state is not None
    assert state.run == 1
    assert len(project.rows()) == 2 * len(rows)
    repaired(project, max_delete_fraction=0.5)
    assert project.rows().keys() == rows.keys()


def test_a_repair_that_dies_before_it_publishes_is_done_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from connectors.qdrant.edge.sink import EdgeSink

    project.settings["stores"] = EDGE
    project.write_many(3)
    project.ingest()
    rows = stored_rows(project)
    change(project, "main", lambda sink: sink.write([replace(rows[min(rows)], revision=5)]))
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(EdgeSink, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            repaired(project)
    halfway = audited(project)
    assert halfway.stores[0].compared.pending > 0  # the manifest says that the store has not got them yet
    report = project.ingest()
    assert (report.exit_code, report.tokens_encoded) == (ExitCode.OK, 0)
    assert audited(project, sample=100).clean
