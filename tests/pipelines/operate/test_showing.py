"""`m3 show`: every fact of a chunk, and the store that differs."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from connectors.protocol import Patch
from m3core.errors import UsageError
from pipelines.operate.collection import Place
from pipelines.operate.showing import Held, Shown
from pipelines.operate.showing import show as look
from tests.pipelines.cli.conftest import M3
from tests.pipelines.ingest.projects import EDGE, EDGE_AND_MEMORY, Project
from tests.pipelines.operate.conftest import configured


def show(project: Project, name: str) -> Shown:
    return look(Place.of(project.config, project.base), name)


def test_a_chunk_is_told_with_document_run_lake_and_stores(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(3)
    project.ingest()
    record = project.records()["d001.md"]
    wanted = record.chunk_ids[1]

    found = show(project, wanted)

    assert found.record == record
    (chunk,) = found.chunks
    assert chunk.row is not None
    assert (chunk.row.chunk.doc_id, chunk.row.chunk.ordinal, chunk.row.run) == ("d001.md", 1, 1)
    assert chunk.place is not None
    assert (project.paths.lake(lake_of(project)) / chunk.place.file).exists()
    assert chunk.stores == {"main": Held(1, True), "rerank": Held(1, None)}
    assert found.unreachable == {}


def lake_of(project: Project) -> str:
    (folder,) = (project.paths.root / "lake").iterdir()
    return folder.name


def test_stores_that_differ_show_it(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.write_many(2)
    project.ingest()
    first, second = project.records()["d000.md"].chunk_ids[:2]
    with project.sink("rerank") as sink:
        sink.delete([first])
        sink.patch([Patch(second, {}, ("everyone",), revision=0)])
    with project.sink("main") as sink:
        sink.patch([Patch(first, {}, ("intruder",), revision=1)])
        sink.publish()  # type: ignore[attr-defined]

    found = show(project, "default/d000.md")

    stores = {chunk.id: chunk.stores for chunk in found.chunks}
    assert set(stores) == set(project.records()["d000.md"].chunk_ids)
    assert stores[first] == {"main": Held(1, False), "rerank": Held(None, None)}
    assert stores[second] == {"main": Held(1, True), "rerank": Held(0, None)}


def test_names_of_documents_may_hold_slashes_and_leave_the_tenant_out(project: Project) -> None:
    project.write("guides/a.md", "# A\n\nThe key is at the front desk.\n")
    project.ingest()
    record = show(project, "guides/a.md").record
    assert record is not None
    assert record == show(project, "default/guides/a.md").record
    for name in ("nowhere.md", "other/guides/a.md", str(uuid.uuid4())):
        with pytest.raises(UsageError, match="is no chunk and no document here"):
            show(project, name)


def test_a_row_that_no_document_has_is_shown_as_such(project: Project) -> None:
    project.write_many(1)
    project.ingest()
    with project.sink() as sink:
        row = find_rows_of(project)
        foreign = replace(row, chunk=replace(row.chunk, id=str(uuid.uuid4())))
        sink.write([foreign])
    found = show(project, foreign.chunk.id)
    assert found.record is None
    assert found.chunks[0].row is None
    assert found.chunks[0].stores == {"main": Held(1, None)}


def find_rows_of(project: Project):  # type: ignore[no-untyped-def]
    """Any row of the memory store, with its vectors."""
    from connectors.memory.rows import find_rows

    with project.sink() as sink:
        return find_rows(sink._options).ordered()[0]  # type: ignore[attr-defined]


def test_on_the_command_line(project: Project, m3: M3) -> None:
    project.settings["stores"] = EDGE
    project.write_many(1)
    configured(project)
    m3("ingest")
    record = project.records()["d000.md"]
    ended = m3("show", record.chunk_ids[0])
    assert (ended.code, ended.err) == (0, "")
    assert f"document    default/d000.md, {len(record.chunk_ids)} chunks\n" in ended.out
    assert "  main: revision 1, as the manifest says, acl equal\n" in ended.out
    assert "front desk" not in ended.out
    found = json.loads(m3("show", "d000.md", "--json").out)
    assert (found["schema_version"], found["document"]["run"]) == (1, 1)
    assert [chunk["id"] for chunk in found["chunks"]] == list(record.chunk_ids)
    assert found["chunks"][0]["stores"]["main"] == {"present": True, "revision": 1, "acl_equal": True}
    missing = m3("show", "nowhere.md")
    assert (missing.code, missing.out) == (2, "")
