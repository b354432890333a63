"""Stores that are down: the others go on, nothing is lost, and `m3 load --pending` brings what was missed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from m3core.encoder import Encoder
from m3core.errors import ExitCode, RefusedError, StoreError, UsageError
from m3core.types import Row
from pipelines.ingest.commit import CommitStep, commit_wave
from pipelines.ingest.embed import Refused
from pipelines.ingest.load import Loaded
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.reading import Prepared
from pipelines.ingest.replay import LoadOptions, load_waiting, waiting
from pipelines.ingest.report import IngestReport
from pipelines.state.collection import read_collection
from pipelines.state.lease import acquire_lease
from pipelines.state.manifest import Manifest
from pipelines.state.runs import RunFolder, list_runs
from tests.pipelines.ingest.outage import EDGE_AND_TWO, TWO, Switchboard
from tests.pipelines.ingest.parts import PickySink, chunk, paths_in, record_of, stores_of, vectors
from tests.pipelines.ingest.projects import EDGE, Project, document


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Switchboard:
    return Switchboard.install(monkeypatch)


@pytest.fixture
def pair(project: Project) -> Project:
    """Five documents for two servers."""
    project.settings["stores"] = TWO
    project.write_many(5)
    return project


def load(project: Project, *only: str, pending_only: bool = True) -> IngestReport:
    return load_waiting(project.config, project.base, NoProgress(), options=LoadOptions(only, pending_only))


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Encoder, "load", refuse)


def test_a_store_that_is_down_gets_later_what_the_others_got(
    pair: Project, board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.down = {"words"}
    report = pair.ingest()
    assert (report.exit_code, report.documents.added) == (ExitCode.PENDING, 5)
    assert (report.stores["words"].pending, report.stores["main"].pending) == (5, 0)
    line = "5 documents wait for store words (store 'words' is switched off). Remedy: m3 load --pending"
    assert line in report.notes
    assert len(pair.rows("main")) == len(pair.manifest_ids())

    no_model(monkeypatch)
    again = pair.ingest()
    assert (again.exit_code, again.documents.pending, again.chunks_written) == (ExitCode.PENDING, 5, 0)
    with pytest.raises(StoreError, match="switched off"):
        load(pair)

    board.down.clear()
    before = pair.rows("main")
    board.asked.clear()
    done = load(pair)
    assert (done.exit_code, done.documents.listed, done.documents.unchanged) == (ExitCode.OK, 5, 5)
    assert board.requests("main") == 0
    assert pair.rows("main") == before
    pair.check_agreement()
    board.asked.clear()
    assert pair.ingest().documents.unchanged == 5
    assert {name for _, name in board.asked} == {"ensure", "count"}
    assert load(pair).documents.listed == 0


def test_a_store_that_breaks_in_the_middle_is_asked_no_more(project: Project, board: Switchboard) -> None:
    project.settings["stores"] = TWO
    project.write_many(150, paragraphs=6)
    board.failing = lambda store, request, nth: (store, request, nth) == ("words", "write", 2)
    report = project.ingest()
    assert board.asked["words", "write"] == 2
    assert (report.exit_code, report.documents.added) == (ExitCode.PENDING, 150)
    pending = report.stores["words"].pending
    assert 0 < pending <= 150
    states = {record.status["words"] for record in project.records().values()}
    assert states <= {"done", "pending"}
    assert len(project.rows("main")) == len(project.manifest_ids())
    board.down.clear()
    board.failing = lambda store, request, nth: False
    assert project.ingest().tokens_encoded == 0
    project.check_agreement()


def test_deletes_are_remembered_for_a_store_that_is_down(pair: Project, board: Switchboard) -> None:
    pair.ingest()
    first = pair.rows("words")
    board.down = {"words"}
    (pair.docs / "d000.md").unlink()
    pair.write("d001.md", document(1).replace("Paragraph 1", "Another paragraph"))
    report = pair.ingest()
    assert (report.exit_code, report.stores["words"].pending) == (ExitCode.PENDING, 2)
    assert "d000.md" not in pair.records()
    pair.write("d001.md", document(1).replace("Paragraph 2", "A third one"))
    (pair.docs / "d002.md").unlink()
    assert pair.ingest().stores["words"].pending == 3

    board.down.clear()
    assert pair.rows("words") == first
    done = load(pair)
    assert (done.exit_code, done.documents.deleted, done.documents.unchanged) == (ExitCode.OK, 2, 1)
    pair.check_agreement()
    assert Manifest(pair.paths, 1).counts().pending == {}
    assert not list(Manifest(pair.paths, 1).records(removed=True))[3:]


def test_a_document_that_comes_back_before_its_deletes_were_done(pair: Project, board: Switchboard) -> None:
    pair.ingest()
    board.down = {"words"}
    (pair.docs / "d000.md").unlink()
    pair.ingest()
    pair.write("d000.md", "# Something else\n\nWith other words.\n")
    report = pair.ingest()
    assert (report.documents.added, report.stores["words"].pending) == (1, 1)
    board.down.clear()
    assert pair.ingest().exit_code is ExitCode.OK
    pair.check_agreement()


def test_a_store_that_breaks_at_the_deletes_keeps_them(pair: Project, board: Switchboard) -> None:
    pair.ingest()
    board.failing = lambda store, request, nth: (store, request) == ("words", "delete")
    (pair.docs / "d000.md").unlink()
    pair.write("d001.md", document(1).replace("Paragraph 1", "Another paragraph"))
    report = pair.ingest()
    assert (report.exit_code, report.documents.deleted, report.stores["words"].pending) == (ExitCode.PENDING, 1, 2)
    board.failing = lambda store, request, nth: False
    board.down.clear()
    assert load(pair).exit_code is ExitCode.OK
    pair.check_agreement()


def test_a_run_without_any_store_fails_and_is_repeated_without_encoding(
    pair: Project, board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.failing = lambda store, request, nth: request == "write"
    with pytest.raises(StoreError, match="switched off") as caught:
        pair.ingest()
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert pair.records() == {}
    board.failing = lambda store, request, nth: False
    board.down.clear()
    no_model(monkeypatch)
    assert pair.ingest().documents.added == 5
    pair.check_agreement()
    board.down = {"main", "words"}
    with pytest.raises(StoreError):
        pair.ingest()


def test_an_embedded_store_that_fails_is_an_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.settings["stores"] = EDGE_AND_TWO
    project.write_many(2)

    def broken(*args: object) -> None:
        raise StoreError("the folder is damaged")

    monkeypatch.setattr("connectors.qdrant.edge.sink.EdgeSink.write", broken)
    with pytest.raises(StoreError, match="folder is damaged"):
        project.ingest()
    monkeypatch.undo()
    project.ingest()
    project.check_agreement()


def test_an_outage_beside_an_embedded_store(project: Project, board: Switchboard) -> None:
    project.settings["stores"] = EDGE_AND_TWO
    project.write_many(4)
    board.down = {"words", "rerank"}
    report = project.ingest()
    assert (report.exit_code, report.documents.added) == (ExitCode.PENDING, 4)
    assert {name: one.pending for name, one in report.stores.items()} == {"main": 0, "rerank": 4, "words": 4}
    chain = project.base / "m3-data/stores/main/notes/g00001/CURRENT"
    published = chain.read_text()
    project.write("d001.md", document(1).replace("Paragraph 1", "Another paragraph"))
    assert project.ingest().stores["rerank"].pending == 4
    assert chain.read_text() != published
    published = chain.read_text()
    board.down = {"rerank"}
    report = load(project, "words")
    assert (report.exit_code, report.stores["rerank"].pending) == (ExitCode.OK, 4)
    assert project.rows("words").keys() == project.rows("main").keys()
    board.down.clear()
    assert load(project).exit_code is ExitCode.OK
    assert chain.read_text() == published
    project.check_agreement()


@pytest.mark.parametrize("stores", [TWO, EDGE_AND_TWO])
def test_embed_and_load_are_an_ingest(
    project: Project, board: Switchboard, stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.settings["stores"] = stores
    project.write_many(4)
    board.down = {"main", "words", "rerank"}
    embedded = project.ingest(load=False)
    assert (embedded.exit_code, embedded.command, embedded.documents.added) == (ExitCode.OK, "embed", 4)
    assert embedded.notes == ("4 documents to be loaded: m3 load",)
    assert board.asked.total() == 0
    assert not (project.base / "m3-data/stores").exists()
    state = read_collection(project.paths)
    assert state is not None
    assert state.live is None
    with monkeypatch.context() as patch:
        no_model(patch)
        assert project.ingest(load=False).documents.pending == 4
        board.down.clear()
        assert load(project, pending_only=False).exit_code is ExitCode.OK
    project.check_agreement()
    state = read_collection(project.paths)
    assert state is not None
    assert state.live == 1

    (project.docs / "d000.md").unlink()
    project.write("d001.md", document(1).replace("Paragraph 1", "Another paragraph"))
    before = project.rows("words")
    assert project.ingest(load=False).documents.deleted == 1
    assert project.rows("words") == before
    done = load(project)
    assert (done.documents.deleted, done.documents.unchanged) == (1, 1)
    project.check_agreement()
    report = project.ingest()
    assert (report.documents.unchanged, report.chunks_written, report.chunks_deleted) == (3, 0, 0)


def test_a_collection_goes_live_only_with_all_its_stores(pair: Project, board: Switchboard) -> None:
    pair.ingest(load=False)
    assert load(pair, "main").exit_code is ExitCode.OK
    state = read_collection(pair.paths)
    assert state is not None
    assert state.live is None
    assert load(pair).exit_code is ExitCode.OK
    state = read_collection(pair.paths)
    assert state is not None
    assert state.live == 1
    pair.check_agreement()


def test_what_a_load_may_be_asked(pair: Project, board: Switchboard) -> None:
    with pytest.raises(UsageError, match="no run has begun"):
        load(pair)
    pair.ingest(load=False)
    with pytest.raises(UsageError, match="no store is called 'wrods'"):
        load(pair, "wrods")
    board.asked.clear()
    runs = list_runs(pair.paths)
    found = waiting(pair.config, pair.base)
    assert found["stores"] == {"main": {"pending": 5}, "words": {"pending": 5}}
    assert (board.asked.total(), list_runs(pair.paths)) == (0, runs)
    pair.settings["stores"] = EDGE
    with pytest.raises(RefusedError, match="other stores"):
        load(pair)


def test_a_store_that_lost_its_rows_is_filled_by_load(pair: Project, board: Switchboard) -> None:
    pair.ingest()
    with pair.sink("words") as sink:
        sink.delete(list(pair.manifest_ids()))
    assert load(pair).documents.listed == 0  # nobody waits, as the manifest says
    done = load(pair, pending_only=False)
    assert (done.exit_code, done.documents.unchanged) == (ExitCode.OK, 5)
    pair.check_agreement()


@pytest.mark.parametrize("pending_only", [None, True, False])
def test_a_store_that_is_filled_again_and_goes_down_is_filled_again_from_the_start(
    project: Project, board: Switchboard, pending_only: bool | None
) -> None:
    """A few rows must not hide that the others are missing; by an ingest (None), or by a load."""
    project.settings["stores"] = TWO
    project.write_many(150, paragraphs=6)
    project.ingest()
    with project.sink("words") as sink:
        sink.delete(list(project.manifest_ids()))
    board.asked.clear()
    board.failing = lambda store, request, nth: (store, request, nth) == ("words", "write", 2)
    assert project.ingest().exit_code is ExitCode.PENDING
    board.failing = lambda store, request, nth: False
    board.down.clear()
    assert 0 < len(project.rows("words")) < len(project.manifest_ids())
    # One that is not filled takes no rights either: they would pass for its whole document.
    done = project.ingest() if pending_only is None else load(project, pending_only=pending_only)
    assert done.exit_code is ExitCode.OK
    project.check_agreement()
    board.asked.clear()
    assert project.ingest().exit_code is ExitCode.OK
    assert board.asked["words", "write"] == 0


def test_what_the_lake_has_lost_is_left_to_an_ingest(pair: Project, board: Switchboard) -> None:
    board.down = {"words"}
    pair.ingest()
    board.down.clear()
    shutil.rmtree(pair.paths.root / "lake")
    done = load(pair)
    assert (done.exit_code, done.documents.pending, done.documents.unchanged) == (ExitCode.PENDING, 5, 0)
    assert "the lake has lost vectors of 5 documents. Remedy: m3 ingest encodes them again" in done.notes
    assert pair.ingest().exit_code is ExitCode.OK
    pair.check_agreement()


def test_chunks_that_are_taken_back_are_remembered_too(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    good = PickySink(tmp_path / "good", lambda row: "")
    ids = {text: chunk(text).id for text in ("old", "shared", "new", "bad")}
    stores = stores_of({"good": good}, down={"words": StoreError("down")})
    done = {"good": "done", "words": "done"}
    with acquire_lease(paths) as lease:
        step = CommitStep(2, Manifest(paths, 1), RunFolder.create(paths, 2, {}), lease, stores)
        old = record_of("a.md", [ids["old"], ids["shared"]], status=done)
        step.manifest.append(1, 1, [old])
        good.write([Row(chunk(text), vectors(0), 1) for text in ("old", "shared", "new")])
        status = dict.fromkeys(done, "pending")
        changed = record_of("a.md", [ids["shared"], ids["new"], ids["bad"]], revision=2, status=status)
        fresh = record_of("b.md", [ids["new"], ids["bad"]], revision=2, status=status)
        refused = Refused(ids["bad"], "load", "store good: too many vectors")
        loaded = Loaded((ids["shared"], ids["new"]), (refused,))
        commit_wave(1, [Prepared(changed, "changed"), Prepared(fresh, "new"), loaded], step)
    found = {record.doc_id: record for record in Manifest(paths, 1).records(removed=True)}
    assert (found["a.md"].chunk_ids, found["a.md"].waiting()) == (old.chunk_ids, ("words",))
    assert set(found["a.md"].obsolete_chunk_ids) == {ids["new"], ids["bad"]}
    assert (found["b.md"].removed, found["b.md"].waiting()) == (True, ("words",))
    assert set(found["b.md"].chunk_ids) == {ids["new"], ids["bad"]}
    assert {name for name, _ in good.scan()} == {ids["old"], ids["shared"]}


def test_a_load_imports_neither_torch_nor_beam(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(3)
    project.ingest(load=False)
    code = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from m3core.config.model import Config
        from pipelines.ingest.progress import NoProgress
        from pipelines.ingest.replay import load_waiting
        report = load_waiting(Config.model_validate({project.raw()!r}), Path({str(project.base)!r}), NoProgress())
        assert report.exit_code == 0 and report.documents.unchanged == 3, report
        heavy = {{"torch", "apache_beam", "transformers"}} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    project.check_agreement()
