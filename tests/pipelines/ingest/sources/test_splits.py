"""Splits of a source have together what its listing has, however small they are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.documents import DocumentRules
from pipelines.ingest.sources import Skipped, Source, SourceItem, Split, SplitLimits
from pipelines.ingest.sources.files import LocalTree
from pipelines.ingest.sources.folder import FolderSource
from pipelines.ingest.sources.jsonl import JsonLinesSource
from pipelines.ingest.sources.parquet import ParquetSource
from pipelines.ingest.sources.protocol import FilePart
from pipelines.ingest.sources.splitting import byte_ranges, packed

RULES = DocumentRules(tenant="default", acl=("everyone",), max_document_bytes=4096)
TOTAL = 1 << 30


def listed(source: Source) -> list[tuple[str, int, bytes | None]]:
    return [(one.stamp, one.size, one.payload) for one in source.items() if isinstance(one, SourceItem)]


def split_up(source: Source, limits: SplitLimits) -> tuple[list[Split], list[tuple[str, int, bytes | None]]]:
    splits = [one for one in source.splits(limits) if isinstance(one, Split)]
    items = [one for split in splits for one in source.split_items(split) if isinstance(one, SourceItem)]
    assert len({one.locator for one in items}) == len(items)
    return splits, [(one.stamp, one.size, one.payload) for one in items]


lines = st.lists(
    st.one_of(st.just(b""), st.just(b"  "), st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b" "))),
    max_size=30,
)


@given(lines=lines, end=st.sampled_from([b"", b"\n", b"\r\n"]), most=st.integers(1, 90), bom=st.booleans())
def test_any_cut_of_json_lines_has_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bytes, most: int, bom: bool
) -> None:
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    file.write_bytes((b"\xef\xbb\xbf" if bom else b"") + b"{}\n" + b"\n".join(lines) + end)
    source = JsonLinesSource("rows", LocalTree(file), RULES, TOTAL)
    splits, found = split_up(source, SplitLimits(most, 3))
    assert found == listed(source)
    assert source.complete
    assert all(len(split.parts) <= 3 for split in splits)


def test_a_line_over_the_limit_is_one_refused_item_in_whatever_range_it_begins(tmp_path: Path) -> None:
    rules = DocumentRules(tenant="default", acl=("everyone",), max_document_bytes=1)
    rows = [b'{"a":1}', b"x" * 300_000, b'{"a":2}']
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(rows))
    source = JsonLinesSource("rows", LocalTree(tmp_path / "rows.jsonl"), rules, TOTAL)
    splits, found = split_up(source, SplitLimits(100_000))
    assert len(splits) == 4
    assert found == listed(source)
    assert [payload for _, _, payload in found] == [rows[0], None, rows[2]]


def test_compressed_lines_are_one_part(tmp_path: Path) -> None:
    body = b"".join(json.dumps({"doc_id": str(number)}).encode() + b"\n" for number in range(200))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(body))
    source = JsonLinesSource("rows", LocalTree(tmp_path), RULES, TOTAL)
    splits, found = split_up(source, SplitLimits(10))
    assert len(splits) == 1
    assert found == listed(source)


@pytest.mark.parametrize("groups", [1, 7, 100])
def test_parquet_is_cut_by_row_groups_and_keeps_its_row_numbers(tmp_path: Path, groups: int) -> None:
    rows = [{"doc_id": f"d{number}", "text": f"text {number}" * 20} for number in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=-(-100 // groups))
    source = ParquetSource("rows", LocalTree(tmp_path / "rows.parquet"), RULES, TOTAL)
    splits, found = split_up(source, SplitLimits(1000))
    assert len(splits) == (1 if groups == 1 else len(splits))
    assert (len(splits) > 1) == (groups > 1)
    assert found == listed(source)
    whole = [one.locator for one in source.items() if isinstance(one, SourceItem)]
    parts = [one.locator for split in splits for one in source.split_items(split) if isinstance(one, SourceItem)]
    assert parts == whole


def test_a_folder_is_cut_by_count_and_bytes(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"d{number:02}.md").write_text("word " * number)
    (tmp_path / "picture.png").write_bytes(b"")
    source = FolderSource("docs", LocalTree(tmp_path), RULES, TOTAL)
    assert [len(split.parts) for split in split_up(source, SplitLimits(10_000, 10))[0]] == [10, 10, 5]
    splits, found = split_up(source, SplitLimits(200, 10))
    assert found == listed(source)
    assert all(len(split.parts) == 1 or sum(part.size for part in split.parts) <= 200 for split in splits)
    assert [one.locator for one in source.splits(SplitLimits()) if isinstance(one, Skipped)] == ["picture.png"]


def test_a_file_that_changed_since_it_was_cut_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"doc_id": "a"}\n' * 50)
    source = JsonLinesSource("rows", LocalTree(file), RULES, TOTAL)
    splits = [one for one in source.splits(SplitLimits(100)) if isinstance(one, Split)]
    file.write_text('{"doc_id": "b"}\n' * 60)
    (found,) = source.split_items(splits[1])
    assert isinstance(found, Skipped)
    assert found.failed
    assert "changed since it was listed" in found.reason


@given(sizes=st.lists(st.integers(0, 50), max_size=30), most=st.integers(1, 60), files=st.integers(1, 5))
def test_packing_keeps_order_and_limits(sizes: list[int], most: int, files: int) -> None:
    parts = [FilePart(str(number), size, "s") for number, size in enumerate(sizes)]
    splits = [one for one in packed("docs", parts, SplitLimits(most, files)) if isinstance(one, Split)]
    assert [part for split in splits for part in split.parts] == parts
    for split in splits:
        assert 1 <= len(split.parts) <= files
        assert len(split.parts) == 1 or sum(part.size for part in split.parts) <= most


@given(size=st.integers(0, 10_000), most=st.integers(1, 500))
def test_ranges_cover_a_file(size: int, most: int) -> None:
    ranges = list(byte_ranges("f", size, "s", most))
    assert sum(part.size for part in ranges) == size
    if len(ranges) > 1:
        assert [part.first for part in ranges[1:]] == [part.last for part in ranges[:-1]]
        assert (ranges[0].first, ranges[-1].last) == (0, size)
        assert max(part.size for part in ranges) <= most
