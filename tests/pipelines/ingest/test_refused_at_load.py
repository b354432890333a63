"""A row that a store refuses for good when a document comes from the lake: a dead letter, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from connectors.memory.sink import MemorySink
from connectors.protocol import Failure, WriteResult
from m3core.errors import ExitCode
from m3core.types import Row
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.replay import load_waiting
from pipelines.ingest.report import IngestReport
from pipelines.operate.audit import audit
from pipelines.operate.collection import Place
from pipelines.operate.letters import replay
from pipelines.operate.promoting import PromoteRequest, promote
from pipelines.operate.status import status
from pipelines.state.manifest import Manifest
from pipelines.state.runs import read_dead_letters
from tests.pipelines import fake_encoder
from tests.pipelines.ingest.outage import TWO
from tests.pipelines.ingest.projects import MEMORY, Project
from tests.tiny import HIDDEN, MULTI_DIM

PICKY, BAD = "words", "d001.md"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Documents whose second chunk the store PICKY will not take."""
    refused = {BAD}
    original = MemorySink.write

    def write(sink: MemorySink, rows: Sequence[Row]) -> WriteResult:
        bad = [
            row.chunk.id
            for row in rows
            if sink._options.name == PICKY and row.chunk.doc_id in refused and row.chunk.ordinal == 1
        ]
        done = original(sink, [row for row in rows if row.chunk.id not in bad])
        failures = tuple(Failure(name, "permanent", "field of a wrong type") for name in bad)
        return WriteResult(done.acknowledged, done.failures + failures)

    monkeypatch.setattr(MemorySink, "write", write)
    return refused


@pytest.fixture
def embedded(project: Project, refusing: set[str], monkeypatch: pytest.MonkeyPatch) -> Project:
    """Three documents that only the lake has yet."""
    fake_encoder.install(monkeypatch, HIDDEN, MULTI_DIM)
    project.settings["stores"] = TWO
    project.write_many(3)
    project.ingest(load=False)
    return project


def load(project: Project) -> IngestReport:
    return load_waiting(project.config, project.base, NoProgress())


def letters(project: Project) -> list[tuple[str, str, str]]:
    return [(one.doc_id, one.stage, one.message) for one in read_dead_letters(project.paths)]


def check(project: Project, tmp_path: Path, *, without: Sequence[str] = (BAD,)) -> None:
    """Every store has all documents, but PICKY none of `without`; audit agrees."""
    records = project.records()
    for store in TWO:
        names = records.keys() - set(without if store == PICKY else ())
        expected = {chunk_id: records[name].revision for name in names for chunk_id in records[name].chunk_ids}
        assert project.rows(store) == expected
    (tmp_path / "audit").mkdir(exist_ok=True)
    assert audit(Place.of(project.config, project.base), tmp_path / "audit").clean


def test_it_is_a_dead_letter_and_waits_no_longer(embedded: Project, tmp_path: Path) -> None:
    report = load(embedded)
    assert (report.exit_code, report.new_dead_letters) == (ExitCode.DEAD_LETTERS, 1)
    [(doc_id, stage, message)] = letters(embedded)
    assert (doc_id, stage) == (BAD, "load")
    assert message.startswith("store words: field of a wrong type")
    assert embedded.records()[BAD].status == {"main": "done", PICKY: "refused"}
    assert not any(Manifest(embedded.paths, 1).counts().pending.values())
    check(embedded, tmp_path)
    again = load(embedded)
    assert (again.exit_code, again.chunks_written) == (ExitCode.OK, 0)


def test_an_ingest_after_it_changes_nothing_and_keeps_the_letter(embedded: Project, tmp_path: Path) -> None:
    load(embedded)
    report = embedded.ingest()
    assert (report.exit_code, report.documents.unchanged, report.documents.pending) == (ExitCode.OK, 3, 0)
    assert [doc_id for doc_id, _, _ in letters(embedded)] == [BAD]
    check(embedded, tmp_path)


def test_a_replay_tries_again(embedded: Project, refusing: set[str], tmp_path: Path) -> None:
    load(embedded)
    place = Place.of(embedded.config, embedded.base)
    assert replay(place, None).restored == 1
    assert embedded.ingest().exit_code is ExitCode.OK  # it fails as before: no new letter
    check(embedded, tmp_path)
    refusing.clear()
    replay(place, None)
    embedded.ingest()
    check(embedded, tmp_path, without=())
    assert letters(embedded) == []


def test_a_new_version_that_the_store_takes_ends_it(embedded: Project, refusing: set[str], tmp_path: Path) -> None:
    load(embedded)
    refusing.clear()
    embedded.write(BAD, "Another text altogether, which is short.")
    assert embedded.ingest().documents.changed == 1
    check(embedded, tmp_path, without=())
    assert letters(embedded) == []


def test_a_store_that_lost_its_rows_is_asked_for_all_again(
    embedded: Project, refusing: set[str], tmp_path: Path
) -> None:
    load(embedded)
    refusing.clear()
    with embedded.sink(PICKY) as sink:
        sink.delete([chunk_id for record in embedded.records().values() for chunk_id in record.chunk_ids])
    embedded.ingest()
    check(embedded, tmp_path, without=())


def test_status_counts_no_row_of_it(embedded: Project) -> None:
    load(embedded)
    shown = status(Place.of(embedded.config, embedded.base))
    rows = {store.name: store.rows for store in shown.stores}
    assert rows[PICKY] == (rows["main"] or 0) - len(embedded.records()[BAD].chunk_ids)
    assert not [fault for fault in shown.faults() if "rows for" in fault.what]


def test_a_generation_without_its_rows_can_be_promoted(project: Project, refusing: set[str]) -> None:
    project.settings["stores"] = MEMORY
    project.write_many(3)
    project.ingest()
    project.settings["stores"] = TWO
    project.ingest(build=True, load=False)
    project.ingest(build=True)
    second = project.of_generation(2)
    assert second.records()[BAD].status == {"main": "done", PICKY: "refused"}
    done = promote(PromoteRequest(Place.of(project.config, project.base)))
    assert done.flipped, [check for check in done.checks if not check.passed]
