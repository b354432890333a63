"""From items and records to chunk rows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m3core.config.model import SourceSection
from m3core.errors import StoreError
from m3core.tokenize import TextTokenizer
from pipelines.ingest.chunking import Chunker, ChunkingConfig
from pipelines.ingest.reading import Chunked, ItemGroup, ReadStep, RecordGroup, obsolete, prepare
from pipelines.ingest.sources import SourceItem, open_source
from pipelines.ingest.stores import Standing
from pipelines.state.chunks import ChunkFiles
from pipelines.state.lake import lake_key
from pipelines.state.manifest import Manifest
from tests.pipelines.ingest.parts import FINGERPRINT, paths_in, record_of
from tests.pipelines.ingest.projects import document


@pytest.fixture
def step(tmp_path: Path, tiny_model: Path) -> ReadStep:
    (tmp_path / "docs").mkdir()
    section = SourceSection.model_validate({"kind": "folder", "path": "docs", "acl": ["everyone"]})
    paths = paths_in(tmp_path)
    return ReadStep(
        collection="notes",
        fingerprint=FINGERPRINT,
        run=5,
        sources={"docs": open_source("docs", section, tmp_path)},
        chunker=Chunker(TextTokenizer.load(tiny_model), ChunkingConfig(48)),
        manifest=Manifest(paths, 1),
        chunk_files=ChunkFiles(paths, 1),
        standing=Standing(("main",)),
    )


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / "docs" / f"{name}.md").write_text(text)


def items(step: ReadStep) -> ItemGroup:
    return ItemGroup(tuple(entry for entry in step.sources["docs"].items() if isinstance(entry, SourceItem)))


def finish(chunked: Chunked, step: ReadStep, wave: int, **changed: Any) -> None:
    """Commit what was prepared."""
    records = [replace(prepared.record, **changed) for prepared in chunked.documents]
    step.manifest.append(step.run, wave, records)


def test_new_documents_become_rows_that_are_in_a_chunk_file_at_once(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, a=document(1), b=document(2))
    chunked = prepare(items(step), 1, step)
    assert [(each.record.doc_id, each.change) for each in chunked.documents] == [("a.md", "added"), ("b.md", "added")]
    assert [chunk_id for each in chunked.documents for chunk_id in each.record.chunk_ids] == [
        row.chunk.id for row in chunked.rows
    ]
    assert all(each.record.revision == 5 and each.record.status == {"main": "pending"} for each in chunked.documents)
    for row in chunked.rows:
        assert row.lake_key == lake_key("default", FINGERPRINT, row.chunk.encoded_text)
        assert row.run == 5
    kept = {row.chunk.id: row for row in step.chunk_files.read([row.chunk.id for row in chunked.rows])}
    assert kept == {row.chunk.id: row for row in chunked.rows}


def test_a_repeated_group_writes_the_same_file_again(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, a=document(1))
    group = items(step)
    assert prepare(group, 1, step) == prepare(group, 1, step)
    assert len(list(paths_in(tmp_path).chunks(1).rglob("*.parquet"))) == 1


def test_classes_of_documents_that_are_known(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, same=document(1), changed=document(2), waiting=document(3))
    first = prepare(items(step), 1, step)
    finish(first, step, 1, status={"main": "done"})
    waiting = next(each.record for each in first.documents if each.record.doc_id == "waiting.md")
    step.manifest.append(5, 2, [waiting])
    old = step.manifest.find([("default", "changed.md")])["default", "changed.md"]
    write(tmp_path, changed=document(2) + "\nOne paragraph more.\n")

    later = replace(step, run=6)
    second = prepare(items(later), 1, later)

    assert {each.record.doc_id: each.change for each in second.documents} == {
        "same.md": "unchanged",
        "changed.md": "changed",
        "waiting.md": "pending",
    }
    records = {each.record.doc_id: each.record for each in second.documents}
    assert records["same.md"].revision == 5
    assert records["same.md"].status == {"main": "done"}
    assert (records["changed.md"].revision, records["waiting.md"].revision) == (6, 5)
    assert set(records["changed.md"].obsolete_chunk_ids) == set(old.chunk_ids) - set(records["changed.md"].chunk_ids)
    assert {row.chunk.doc_id for row in second.rows} == {"changed.md", "waiting.md"}


def test_a_store_that_lost_its_rows_gets_all_of_them(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, same=document(1))
    finish(prepare(items(step), 1, step), step, 1, status={"main": "done"})
    later = replace(step, run=6)
    assert prepare(items(later), 1, later).rows == []
    lost = replace(later, standing=Standing(("main",), frozenset({"main"})))
    prepared = prepare(items(lost), 1, lost).documents[0]
    assert (prepared.change, prepared.record.status) == ("pending", {"main": "pending"})


def test_bad_documents_are_letters_without_text_and_the_others_go_on(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, good=document(1), empty=" ", nul="secret\0text")
    chunked = prepare(items(step), 1, step)
    assert [each.record.doc_id for each in chunked.documents] == ["good.md"]
    assert [(letter.doc_id, letter.stage, letter.error_code) for letter in chunked.letters] == [
        ("empty.md", "read", "document"),
        ("nul.md", "read", "document"),
    ]
    assert "secret" not in "".join(letter.message for letter in chunked.letters)


def test_one_document_that_cannot_be_cut_does_not_stop_its_group(
    step: ReadStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m3core.errors import DocumentError
    from m3core.types import Chunk, Document

    write(tmp_path, bad=document(1), good=document(2))
    whole = Chunker.chunks_many

    def refuse_bad(self: Chunker, documents: list[Document], collection: str) -> list[list[Chunk]]:
        if any(each.doc_id == "bad.md" for each in documents):
            raise DocumentError("a character has more tokens than a chunk may have", "remove it")
        return whole(self, documents, collection)

    monkeypatch.setattr(Chunker, "chunks_many", refuse_bad)
    chunked = prepare(items(step), 1, step)
    assert [each.record.doc_id for each in chunked.documents] == ["good.md"]
    assert [(letter.doc_id, letter.stage) for letter in chunked.letters] == [("bad.md", "chunk")]


def test_a_failed_new_version_brings_the_old_one_that_still_waits(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, a=document(1))
    first = prepare(items(step), 1, step)
    finish(first, step, 1)
    write(tmp_path, a="")
    later = replace(step, run=6)
    second = prepare(items(later), 1, later)
    assert [letter.doc_id for letter in second.letters] == ["a.md"]
    assert [each.change for each in second.documents] == ["kept"]
    assert [row.chunk for row in second.rows] == [row.chunk for row in first.rows]
    assert second.documents[0].record == first.documents[0].record


def test_records_come_back_from_the_state_folder_with_their_own_revision(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, a=document(1), b=document(2))
    first = prepare(items(step), 1, step)
    finish(first, step, 1)
    later = replace(step, run=6)
    restored = prepare(RecordGroup(tuple(step.manifest.records())), 1, later)
    assert {row.chunk.id: row.chunk for row in restored.rows} == {row.chunk.id: row.chunk for row in first.rows}
    assert {row.run for row in restored.rows} == {5}
    assert {(each.change, each.record.revision) for each in restored.documents} == {("pending", 5)}
    finish(restored, later, 1)
    again = prepare(RecordGroup(tuple(step.manifest.records())), 1, replace(step, run=7))
    assert len(again.rows) == len(first.rows)
    assert step.chunk_files.runs() == [5]


def test_a_record_without_its_chunks_is_a_letter(step: ReadStep) -> None:
    record = record_of("a.md", ["00000000-0000-5000-8000-000000000000"], status={"main": "pending"})
    chunked = prepare(RecordGroup((record,)), 1, step)
    assert (chunked.rows, chunked.documents) == ([], [])
    assert [(letter.doc_id, letter.stage, letter.error_code) for letter in chunked.letters] == [
        ("a.md", "restore", "state")
    ]


def test_obsolete_ids_outlive_a_killed_run() -> None:
    assert obsolete(None, ["1"]) == ()
    assert obsolete(record_of("a", ["1", "2"], obsolete_chunk_ids=("0", "3")), ["2", "3"]) == ("0", "1")


def test_a_touched_document_that_a_store_waits_for_goes_only_there(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, a=document(1))
    two = replace(step, standing=Standing(("main", "words")))
    first = prepare(items(two), 1, two)
    finish(first, two, 1, status={"main": "done", "words": "pending"}, stamp="before")

    later = replace(two, run=6)
    second = prepare(items(later), 1, later)
    assert [(each.change, each.record.revision) for each in second.documents] == [("pending", 5)]
    assert second.documents[0].record.stamp == first.documents[0].record.stamp
    assert set(second.targets.values()) == {("words",)}
    assert second.targets.keys() == {row.chunk.id for row in first.rows}

    down = replace(later, standing=Standing(("main", "words"), absent={"words": StoreError("down")}))
    third = prepare(items(down), 1, down)
    assert (third.rows, [each.change for each in third.documents]) == ([], ["unchanged"])
    assert third.documents[0].record.status == {"main": "done", "words": "pending"}


def test_a_touched_document_whose_rows_are_lost_is_chunked_again(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, a=document(1))
    finish(prepare(items(step), 1, step), step, 1, stamp="before")
    shutil.rmtree(paths_in(tmp_path).chunks(1))
    later = replace(step, run=6)
    second = prepare(items(later), 1, later)
    assert [(each.change, each.record.revision) for each in second.documents] == [("pending", 6)]
    assert {row.run for row in second.rows} == {6}


def test_a_document_that_comes_back_before_its_deletes_keeps_them_in_mind(step: ReadStep, tmp_path: Path) -> None:
    write(tmp_path, a=document(1))
    removed = record_of("a.md", ["old"], obsolete_chunk_ids=("older",), removed=True, status={"main": "pending"})
    step.manifest.append(1, 1, [removed])
    chunked = prepare(items(step), 1, step)
    assert [(each.change, each.record.obsolete_chunk_ids) for each in chunked.documents] == [
        ("added", ("old", "older"))
    ]
