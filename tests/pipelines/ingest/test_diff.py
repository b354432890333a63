"""The join of listing and manifest, against the obvious dictionary version."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core.errors import RefusedError
from pipelines.ingest import diff
from pipelines.ingest.diff import (
    Wanted,
    check_deletes,
    duplicates,
    find_waiting,
    gone_records,
    join,
    pending_records,
    removed_records,
    written_by,
)
from pipelines.ingest.listing import Listing
from pipelines.ingest.stores import Standing
from pipelines.state.manifest import DocumentRecord, Manifest
from tests.pipelines.ingest.parts import paths_in, record_of

NAMES = tuple("abcdef")
STORES = ("main", "words")
ALL = Standing(STORES)
PENDING: dict[str, Any] = {"status": {"main": "pending"}}
DEFAULTS = {"tenant": "default", "source": "docs", "stamp": "s", "size": 10}
LEFT_OVER: dict[str, Any] = {"obsolete_chunk_ids": ("x",)}


def listing_of(folder: Path, rows: list[dict[str, Any]], incomplete: set[str] | None = None) -> Listing:
    texts = ("tenant", "doc_id", "source", "locator", "stamp")
    schema = pa.schema([*((name, pa.string()) for name in texts), ("size", pa.int64()), ("position", pa.int64())])
    filled = [
        {
            "tenant": "default",
            "source": "docs",
            "locator": row["doc_id"],
            "stamp": "s",
            "size": 10,
            "position": at,
            **row,
        }
        for at, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(filled, schema=schema), folder / "listing.parquet")
    return Listing(folder / "listing.parquet", len(rows), 0, (), {}, frozenset(incomplete or ()))


def manifest_of(folder: Path, records: list[DocumentRecord]) -> Manifest:
    manifest = Manifest(paths_in(folder), 1)
    if records:
        manifest.append(1, 1, records)
    return manifest


def expected_class(
    listed: dict[str, Any] | None, known: DocumentRecord | None, incomplete: bool, standing: Standing
) -> str | None:
    """What the join must say, by the words of its docstring; None if it must not say anything."""
    waits = set() if known is None else set(standing.waiting(known))
    serve = bool(waits - standing.absent.keys())
    if known is not None and known.removed:
        return "read" if listed is not None else "removed" if serve else None
    if listed is None:
        return ("owed" if serve else "kept") if incomplete else "gone"
    if known is None or known.stamp != listed["stamp"] or known.source != "docs":
        return "read"
    return "pending" if serve else "waiting" if waits else "unchanged"


@settings(max_examples=60)
@given(
    listed=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["s", "t"])),
    known=st.dictionaries(
        st.sampled_from(NAMES),
        st.fixed_dictionaries(
            {"status": st.fixed_dictionaries(dict.fromkeys(STORES, st.sampled_from(["done", "pending"])))},
            optional={
                "source": st.just("old"),
                "stamp": st.just("t"),
                "obsolete_chunk_ids": st.just(("x",)),
                "removed": st.just(True),
            },
        ),
    ),
    incomplete=st.booleans(),
    lost=st.frozensets(st.sampled_from(STORES)),
    absent=st.frozensets(st.sampled_from(STORES)),
)
def test_classes_are_those_of_a_dictionary_join(
    listed: dict[str, str],
    known: dict[str, dict[str, Any]],
    incomplete: bool,
    lost: frozenset[str],
    absent: frozenset[str],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"doc_id": doc_id, "stamp": stamp} for doc_id, stamp in listed.items()]
        records = {doc_id: record_of(doc_id, **changed) for doc_id, changed in known.items()}
        hidden = {"docs", "old"} if incomplete else set()
        standing = Standing(STORES, lost - absent, dict.fromkeys(absent))
        manifest = manifest_of(folder, list(records.values()))
        work = join(listing_of(folder, rows, hidden), manifest, folder, standing)
        by_name = {row["doc_id"]: row for row in rows}
        classes = {
            doc_id: expected_class(by_name.get(doc_id), records.get(doc_id), incomplete, standing)
            for doc_id in {*listed, *known}
        }
        expected = {doc_id: each for doc_id, each in classes.items() if each}
        found = {row["doc_id"]: row["class"] for row in pq.read_table(work.file).to_pylist()}
        assert found == expected
        assert work.known == sum(not record.removed for record in records.values())
        assert {doc_id for doc_id in NAMES if work.wanted.has("docs", doc_id)} == {
            doc_id for doc_id, each in expected.items() if each == "read"
        }
        assert work.listed_bytes == 10 * sum(each in ("read", "pending") for each in expected.values())
        assert work.to_do == any(each not in ("unchanged", "waiting", "kept") for each in expected.values())
        waiting = find_waiting(manifest, folder, standing)
        assert {row["doc_id"]: row["class"] for row in pq.read_table(waiting.file).to_pylist()} == {
            doc_id: "removed" if record.removed else "pending"
            for doc_id, record in records.items()
            if set(standing.waiting(record)) - absent
        }


def test_the_first_place_of_a_document_counts_and_the_others_are_duplicates(tmp_path: Path) -> None:
    rows = [{"doc_id": "a", "locator": place} for place in ("one", "two", "three")]
    work = join(listing_of(tmp_path, rows), manifest_of(tmp_path, []), tmp_path, ALL)
    assert list(duplicates(work)) == [("default", "a", "one", "two"), ("default", "a", "one", "three")]
    assert [work.wanted.has("docs", place) for place in ("one", "two", "three")] == [True, False, False]
    assert (work.count("read"), work.count("duplicate")) == (1, 2)


def test_records_come_back_for_what_is_pending_or_gone(tmp_path: Path) -> None:
    left = record_of("d", ["4"], removed=True, **PENDING)
    records = [record_of("a", ["1"], **PENDING), record_of("b", ["2"]), record_of("c", ["3"]), left]
    manifest = manifest_of(tmp_path, records)
    work = join(listing_of(tmp_path, [{"doc_id": "a"}, {"doc_id": "b"}]), manifest, tmp_path, ALL)
    assert list(pending_records(work, manifest)) == [records[0]]
    assert list(gone_records(work, manifest)) == [[records[2]]]
    assert list(removed_records(work, manifest)) == [[left]]


def test_written_by_finds_what_a_run_has_still_to_finish(tmp_path: Path) -> None:
    records = [
        record_of("a", **PENDING),
        record_of("b", **LEFT_OVER),
        record_of("c"),
    ]
    manifest = manifest_of(tmp_path, [record_of("d", **PENDING)])
    manifest.append(2, 1, records)
    files = written_by(2, manifest, tmp_path)
    for _ in range(2):
        assert sorted(record.doc_id for batch in files.records(manifest) for record in batch) == ["a", "b"]


@pytest.mark.parametrize(("limit", "refused"), [(0.4, True), (0.5, False), (1.0, False), (0.0, True)])
def test_more_deletes_than_allowed_are_refused(tmp_path: Path, limit: float, refused: bool) -> None:
    manifest = manifest_of(tmp_path, [record_of(name) for name in "abcd"])
    work = join(listing_of(tmp_path, [{"doc_id": "a"}, {"doc_id": "b"}]), manifest, tmp_path, ALL)
    if not refused:
        check_deletes(work, limit)
        return
    with pytest.raises(RefusedError) as caught:
        check_deletes(work, limit)
    assert "2 of 4 documents are gone from the source (50.0%" in caught.value.message
    assert "first c, d" in caught.value.message
    assert caught.value.remedy.endswith("--max-delete-fraction 0.50")


def test_nothing_gone_is_never_refused(tmp_path: Path) -> None:
    check_deletes(join(listing_of(tmp_path, []), manifest_of(tmp_path, []), tmp_path, ALL), 0.0)


def test_many_documents_come_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "_BATCH", 7)
    rows = [{"doc_id": f"d{number}"} for number in range(100)]
    work = join(listing_of(tmp_path, rows), manifest_of(tmp_path, []), tmp_path, ALL)
    assert len(work.wanted) == 100
    assert all(work.wanted.has("docs", f"d{number}") for number in range(100))
    assert not work.wanted.has("docs", "d100")
    assert not Wanted.of(iter([])).has("docs", "d0")
