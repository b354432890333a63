"""`m3 audit`: every kind of drift is found, counted and named; a healthy collection is clean."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.protocol import Patch
from m3core.errors import ExitCode, StoreError, UsageError
from pipelines.operate import comparing
from pipelines.operate.comparing import merge
from pipelines.operate.expected import ExpectedRow
from pipelines.operate.findings import Finding, Findings, read_findings
from pipelines.state.lease import acquire_lease
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, Project, document
from tests.pipelines.operate.conftest import configured
from tests.pipelines.operate.damage import audited, change, foreign, lake_files, opposite, spoil, stored_rows

NO_DRIFT = {"missing": 0, "extra": 0, "stale": 0, "ahead": 0, "wrong_acl": 0, "wrong_vectors": 0}


def expected_row(name: str) -> ExpectedRow:
    return ExpectedRow(name, "t", "d", 1, False, False, (), None, None)


@given(st.sets(st.text("ab", min_size=1, max_size=4)), st.sets(st.text("ab", min_size=1, max_size=4)))
def test_the_merge_is_the_full_join(left: set[str], right: set[str]) -> None:
    pairs = list(merge(map(expected_row, sorted(left)), ((name, 1) for name in sorted(right))))
    names = [row.id if row is not None else found[0] for row, found in pairs if row is not None or found is not None]
    assert names == sorted(left | right)
    assert {row.id for row, _ in pairs if row is not None} == left
    assert {found[0] for _, found in pairs if found is not None} == right
    assert all(row is None or found is None or row.id == found[0] for row, found in pairs)


def test_a_scan_that_does_not_ascend_is_an_error() -> None:
    with pytest.raises(StoreError, match="its scan is not ascending"):
        list(comparing._ascending("main", iter([("b", 1), ("a", 1)])))
    with pytest.raises(StoreError, match="its scan is not ascending"):
        list(comparing._ascending("main", iter([("a", 1), ("a", 1)])))


def test_findings_survive_their_file_and_name_the_first_few(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = [Finding("main", "extra", f"{number}", found=number) for number in range(5)]
    with Findings(tmp_path / "f.jsonl") as findings:
        for one in made:
            findings.add(one)
    assert list(read_findings(findings.path)) == made
    assert findings.of_store("main")["extra"] == 5
    assert findings.first["main", "extra"] == ["0", "1", "2"]
    findings.path.write_text('{"store": "main"}\n')
    with pytest.raises(UsageError, match="is no finding"):
        list(read_findings(findings.path))


def test_a_healthy_collection_is_clean_after_changes_and_deletes(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.write_many(6)
    configured(project)
    m3("ingest")
    project.write("d001.md", document(1).replace("Paragraph 1", "A new beginning"))
    (project.docs / "d002.md").unlink()
    m3("ingest")
    before = sorted(path.name for path in project.paths.runs.iterdir())

    ended = m3("audit", "--json")

    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    chunks = len(project.manifest_ids())
    assert found.keys() == {
        "schema_version", "collection", "generation", "clean", "running", "documents", "chunks", "stores",
        "chunk_files", "lake", "not_compared",
    }  # fmt: skip
    assert (found["schema_version"], found["clean"], found["running"]) == (1, True, None)
    assert (found["documents"], found["chunks"]) == (5, chunks)
    assert found["stores"]["main"] == {
        "rows": chunks, **NO_DRIFT, "pending": 0, "in_flight": 0, "compared_acls": chunks,
        "compared_vectors": min(200, chunks), "first": {}, "error": None,
    }  # fmt: skip
    assert found["lake"]["missing"] == found["lake"]["corrupt"] == found["chunk_files"]["missing"] == 0
    assert found["lake"]["unreferenced"] > 0
    assert found["not_compared"] == {"main": ["text", "metadata", "vectors beyond the sample"]}
    assert sorted(path.name for path in project.paths.runs.iterdir()) == before
    said = m3("audit")
    assert said.out.splitlines()[0].endswith("· clean")


def test_every_kind_of_drift_is_found_in_the_store_that_has_it(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(5)
    project.ingest()
    rows = stored_rows(project)
    lost, old, late, alien, wrong, turned, *_ = sorted(rows)
    change(project, "rerank", lambda sink: sink.delete([lost]))
    change(
        project, "rerank", lambda sink: sink.write([replace(rows[old], revision=0), replace(rows[late], revision=7)])
    )
    stranger = foreign(rows[alien])
    change(project, "rerank", lambda sink: sink.write([stranger, opposite(rows[turned])]))
    change(project, "main", lambda sink: sink.patch([Patch(wrong, {}, ("everyone", "intruder"), revision=1)]))

    found = audited(project, sample=10_000)

    assert (found.clean, found.exit_code) == (False, ExitCode.DRIFT)
    main, rerank = found.stores
    assert main.counts == {**NO_DRIFT, "wrong_acl": 1}
    assert main.first == {"wrong_acl": [wrong]}
    assert rerank.counts == {**NO_DRIFT, "missing": 1, "extra": 1, "stale": 1, "ahead": 1, "wrong_vectors": 1}
    assert rerank.first == {
        "missing": [lost], "extra": [stranger.chunk.id], "stale": [old], "ahead": [late], "wrong_vectors": [turned],
    }  # fmt: skip
    assert found.as_json()["stores"]["rerank"]["wrong_acl"] is None
    assert found.as_json()["not_compared"]["rerank"] == ["acl", "vectors beyond the sample"]
    assert audited(project, sample=0).stores[1].sampled == 0


def test_damage_in_the_state_folder_is_found_and_left_as_it_is(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.settings["ingest"] = {"wave_bytes": 1 << 16, "min_free_bytes": 1 << 20}
    project.write_many(4)
    configured(project)
    m3("ingest")
    (lake_file,) = lake_files(project)
    spoil(lake_file)
    names = sorted(path.name for path in lake_file.parent.iterdir())

    ended = m3("audit", "--json")

    found = json.loads(ended.out)
    chunks = found["chunks"]
    assert ended.code == 8
    assert found["lake"] == {"files": 0, "rows": 0, "corrupt": 1, "missing": chunks, "unreferenced": 0}
    assert found["stores"]["main"]["compared_vectors"] == 0
    assert sorted(path.name for path in lake_file.parent.iterdir()) == names
    for path in project.paths.chunks(1).rglob("*.parquet"):
        spoil(path)
    found = json.loads(m3("audit", "--json").out)
    assert found["chunk_files"]["damaged"] >= 1
    assert found["chunk_files"]["missing"] == chunks
    assert found["lake"]["missing"] == 0  # which vectors a chunk needs is not known without its row
    assert m3("audit").out.endswith("Mend: m3 repair\n")


def test_a_store_that_is_gone_is_not_drift_but_no_answer(project: Project, m3: M3) -> None:
    project.write_many(1)  # a memory store: the rows are gone with the process that wrote them
    configured(project)
    m3("ingest")
    from connectors.memory import rows

    rows._tables.clear()
    ended = m3("audit", "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["clean"]) == (7, False)
    assert found["stores"]["main"]["error"]["code"] == "store"


def test_what_a_run_at_work_has_written_is_not_judged(project: Project) -> None:
    project.write_many(2)
    project.ingest()
    rows = stored_rows(project)
    first = min(rows)
    with acquire_lease(project.paths):
        change(project, "main", lambda sink: sink.write([replace(rows[first], revision=1), foreign(rows[first])]))
        found = audited(project)
    assert (found.clean, found.running) == (True, 1)
    assert found.stores[0].compared.in_flight == 1
    assert audited(project).stores[0].counts["extra"] == 1


def test_rows_that_wait_for_the_next_run_are_pending_not_missing(project: Project) -> None:
    project.write_many(3)
    project.ingest()
    record = project.records()["d001.md"]
    waiting = replace(record, status={"main": "pending"}, obsolete_chunk_ids=(max(project.manifest_ids()) + "f",))
    from pipelines.state.manifest import Manifest

    Manifest(project.paths, 1).append(2, 1, [waiting])
    change(project, "main", lambda sink: sink.delete(list(record.chunk_ids)))
    found = audited(project)
    assert found.clean
    assert found.stores[0].compared.pending == len(record.chunk_ids)
    assert found.stores[0].compared.rows == len(project.manifest_ids()) - len(record.chunk_ids)


def test_there_is_nothing_to_audit_before_the_first_run(project: Project, m3: M3) -> None:
    configured(project)
    ended = m3("audit")
    assert (ended.code, ended.out) == (2, "")
    assert "holds nothing yet" in ended.err
