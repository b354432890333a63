"""`m3 ingest --only-acl`: a revocation reaches every store at once, and nothing else does."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from connectors.filters.tree import Everything
from connectors.registry import open_searcher
from m3core.encoder import Encoder
from m3core.errors import ExitCode
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.report import IngestReport
from pipelines.ingest.rights import apply_acls
from pipelines.state.chunks import ChunkFiles
from tests.pipelines.ingest.outage import EDGE_AND_TWO, TWO, Switchboard
from tests.pipelines.ingest.projects import Project, document


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Switchboard:
    return Switchboard.install(monkeypatch)


ROWS: list[dict[str, Any]] = [
    {"doc_id": f"r{number}", "text": document(number), "acl": ["staff"], "year": 2000 + number} for number in range(5)
]


@pytest.fixture(params=[TWO, EDGE_AND_TWO], ids=["servers", "embedded"])
def rights(request: pytest.FixtureRequest, project: Project, board: Switchboard) -> Project:
    """Five documents that staff may see."""
    project.settings["fields"] = {"year": "integer"}
    project.settings["stores"] = request.param
    project.write_lines(ROWS)
    project.ingest()
    return project


def only_acl(project: Project) -> IngestReport:
    return apply_acls(project.config, project.base, NoProgress())


def acls(project: Project) -> dict[str, set[tuple[str, ...]]]:
    """Per document, what the text store says of its rows."""
    with project.sink("main") as sink:
        names = [name for name, _ in sink.scan()]
        options = sink._options  # type: ignore[attr-defined]

    async def fetch() -> dict[str, set[tuple[str, ...]]]:
        searcher = open_searcher(project.config.stores["main"].kind, options)
        found: dict[str, set[tuple[str, ...]]] = {}
        for payload in (await searcher.fetch(names, Everything(), 60.0)).values():
            found.setdefault(payload.doc_id, set()).add(payload.acl)
        await searcher.aclose()
        return found

    return asyncio.run(fetch())


def test_only_rights_change(rights: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = [
        {**ROWS[0], "acl": ["board"]},
        {**ROWS[1], "acl": [], "text": document(77), "year": 1999},
        {**ROWS[2], "text": document(78)},
        {"doc_id": "new", "text": document(9), "acl": ["staff"]},
        ROWS[3],
    ]
    rights.write_lines(changed)
    before = rights.records()
    monkeypatch.setattr(Encoder, "load", None)

    report = only_acl(rights)

    assert (report.exit_code, report.command) == (ExitCode.OK, "ingest --only-acl")
    assert (report.documents.patched, report.documents.unchanged) == (2, 1)
    assert (report.documents.added, report.documents.deleted, report.chunks_deleted) == (0, 0, 0)
    assert acls(rights) == {"r0": {("board",)}, "r1": {()}, "r2": {("staff",)}, "r3": {("staff",)}, "r4": {("staff",)}}
    records = rights.records()
    assert {name: record.chunk_ids for name, record in records.items()} == {
        name: record.chunk_ids for name, record in before.items()
    }
    assert records["r1"].metadata_hash == before["r1"].metadata_hash
    rights.check_agreement()
    assert only_acl(rights).chunks_written == 0

    monkeypatch.undo()
    rest = rights.ingest()
    assert (rest.documents.added, rest.documents.changed, rest.documents.deleted) == (1, 2, 1)
    rights.check_agreement()
    assert acls(rights)["r1"] == {()}
    rows = ChunkFiles(rights.paths, 1).read(list(rights.records()["r1"].chunk_ids))
    assert {row.chunk.acl for row in rows} == {()}


def test_rights_that_go_back_with_the_text_they_came_with(rights: Project) -> None:
    rights.write_lines([{**ROWS[0], "acl": ["board"], "text": document(77)}, *ROWS[1:]])
    assert only_acl(rights).documents.patched == 1
    assert acls(rights)["r0"] == {("board",)}
    rights.write_lines(ROWS)  # as at first, to the byte
    report = rights.ingest()
    assert (report.documents.patched, report.documents.unchanged, report.tokens_encoded) == (1, 4, 0)
    assert acls(rights)["r0"] == {("staff",)}
    rights.check_agreement()


def test_a_store_that_is_down_is_told_and_follows(rights: Project, board: Switchboard) -> None:
    rights.write_lines([{**ROWS[0], "acl": ["board"]}, *ROWS[1:]])
    board.down = {"words"}
    report = only_acl(rights)
    assert (report.exit_code, report.stores["words"].pending) == (ExitCode.PENDING, 1)
    assert acls(rights)["r0"] == {("board",)}
    board.down.clear()
    assert rights.ingest().exit_code is ExitCode.OK
    rights.check_agreement()


def test_a_store_that_lost_its_rows_is_left_to_a_load(rights: Project, board: Switchboard) -> None:
    with rights.sink("words") as sink:
        sink.delete(list(rights.manifest_ids()))
    rights.write_lines([{**ROWS[0], "acl": ["board"]}, *ROWS[1:]])
    report = only_acl(rights)
    assert (report.exit_code, report.stores["words"].pending) == (ExitCode.PENDING, 1)
    assert rights.rows("words") == {}
    assert rights.ingest().exit_code is ExitCode.OK
    rights.check_agreement()


def test_vectors_that_are_lost_do_not_pass_for_applied(rights: Project) -> None:
    for file in (rights.paths.root / "lake").rglob("*.parquet"):
        file.unlink()
    rights.write_lines([{**ROWS[0], "acl": ["board"]}, *ROWS[1:]])
    report = only_acl(rights)
    assert (report.exit_code, report.documents.patched) == (ExitCode.PENDING, 0)
    assert rights.ingest().exit_code is ExitCode.OK
    assert acls(rights)["r0"] == {("board",)}
    rights.check_agreement()


def test_a_signal_ends_it_between_groups(rights: Project) -> None:
    rights.write_lines([{**row, "acl": ["board"]} for row in ROWS])

    class Stopping(NoProgress):
        def wave(self, number: int) -> None:
            signal.raise_signal(signal.SIGTERM)

    report = apply_acls(rights.config, rights.base, Stopping())
    assert (report.exit_code, report.documents.patched) == (ExitCode.TERMINATED, 0)
    assert only_acl(rights).documents.patched == 5
    rights.check_agreement()
