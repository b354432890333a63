"""The listing of all sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from m3core.config.model import SourceSection
from m3core.errors import SourceError
from pipelines.ingest.listing import duplicate_letters, list_sources
from pipelines.ingest.sources import Source, open_source

DOCS = {"kind": "folder", "path": "docs"}
ROWS = {"kind": "jsonl", "path": "rows.jsonl"}


def sources_in(folder: Path, **sections: dict[str, Any]) -> dict[str, Source]:
    return {
        name: open_source(name, SourceSection.model_validate({"acl": ["everyone"], **section}), folder)
        for name, section in sections.items()
    }


def never() -> bool:
    return False


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("b.md", "a.md", ".hidden.md", "c.png"):
        (folder / name).write_text("text")
    return folder


def test_rows_are_keys_and_stamps_in_listing_order(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"doc_id": "r1", "text": "x"}\n\n{"doc_id": "r2", "text": ""}\n')
    sources = sources_in(tmp_path, docs={"kind": "folder", "path": "docs"}, rows=ROWS)

    listing = list_sources(sources, tmp_path, lambda documents: None, never)

    table = pq.read_table(listing.file)
    assert table.column_names == ["tenant", "doc_id", "source", "locator", "stamp", "size", "position"]
    rows = [(row["doc_id"], row["source"], row["locator"], row["position"]) for row in table.to_pylist()]
    assert rows == [
        ("a.md", "docs", "a.md", 0),
        ("b.md", "docs", "b.md", 1),
        ("r1", "rows", "rows.jsonl:1", 2),
        ("r2", "rows", "rows.jsonl:3", 3),
    ]
    assert (listing.items, listing.failed, listing.letters) == (4, 0, ())
    assert listing.skipped == {"hidden": 1, "unsupported": 1}
    assert listing.incomplete == frozenset()


def test_a_line_without_a_name_is_a_dead_letter_and_its_source_incomplete(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"doc_id": "r1", "text": "x"}\n{"doc_id": \n{"text": "no id"}\n')
    sources = sources_in(tmp_path, docs={"kind": "folder", "path": "docs"}, rows=ROWS)

    listing = list_sources(sources, tmp_path, lambda documents: None, never)

    assert (listing.items, listing.failed) == (3, 2)
    assert [letter.source_path for letter in listing.letters] == ["rows.jsonl:2", "rows.jsonl:3"]
    assert all(letter.stage == "read" and letter.error_code == "document" for letter in listing.letters)
    assert "no id" not in "".join(letter.message for letter in listing.letters)
    assert listing.incomplete == {"rows"}


def test_a_corrupt_file_is_a_dead_letter_and_its_source_incomplete(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"doc_id": "r1", "text": "x"}\n')
    (folder / "b.jsonl.gz").write_bytes(b"no gzip")
    listing = list_sources(
        sources_in(tmp_path, parts={"kind": "jsonl", "path": "parts"}), tmp_path, lambda documents: None, never
    )
    assert (listing.items, listing.failed, len(listing.letters)) == (1, 1, 1)
    assert listing.letters[0].stage == "list"
    assert listing.incomplete == {"parts"}


def test_progress_is_told_and_a_stop_leaves_the_listing_incomplete(tmp_path: Path) -> None:
    lines = "".join(f'{{"doc_id": "r{number}", "text": "x"}}\n' for number in range(2500))
    (tmp_path / "rows.jsonl").write_text(lines)
    sources = sources_in(tmp_path, rows=ROWS)
    said: list[int] = []
    assert list_sources(sources, tmp_path, said.append, never).items == 2500
    assert said == [1000, 2000]

    stopped = list_sources(sources, tmp_path, said.append, lambda: len(said) >= 3)
    assert stopped.items == 1000
    assert stopped.incomplete == {"rows"}


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        list_sources(
            sources_in(tmp_path, docs={"kind": "folder", "path": "none"}), tmp_path, lambda documents: None, never
        )


def test_duplicates_name_both_places() -> None:
    letters = list(duplicate_letters(iter([("default", "r1", "a.jsonl:1", "b.jsonl:9")])))
    assert [(letter.doc_id, letter.source_path, letter.error_code) for letter in letters] == [
        ("r1", "b.jsonl:9", "duplicate")
    ]
    assert "a.jsonl:1 (used) and b.jsonl:9" in letters[0].message
