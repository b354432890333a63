"""JSON Lines and Parquet, whole and damaged, plain and compressed."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3core.config.model import SourceSection
from m3core.errors import DocumentError, SourceError
from m3core.types import Document
from pipelines.ingest.sources import SkipKind, Skipped, Source, SourceItem, open_source

FIELDS = {"source": "string", "published": "string", "year": "integer"}


def source_of(kind: str, path: Path, **settings: object) -> Source:
    section = SourceSection.model_validate({"kind": kind, "path": path, "acl": ("staff",), **settings})
    return open_source("s", section, Path("/"), FIELDS)  # type: ignore[arg-type]


def outcomes(source: Source) -> dict[str, str]:
    """For each item its document's id and text, or why it was refused; for each skipped file its reason."""
    found: dict[str, str] = {}
    for entry in source.items():
        if isinstance(entry, Skipped):
            found[entry.locator] = f"{entry.kind}: {entry.reason}"
            continue
        try:
            document = source.read(entry)
            found[entry.locator] = f"{document.doc_id}={document.text}"
        except DocumentError as error:
            found[entry.locator] = error.message
    return found


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


GOOD = {"doc_id": "a", "text": "one"}
OTHER = {"doc_id": "b", "text": "two"}


def test_json_lines_with_broken_ones_between(tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_bytes(
        b"\xef\xbb\xbf"
        + lines(GOOD)
        + b'{"doc_id": "x", "text": "PRIVATE\n'
        + b"\r\n"
        + b"[1]\n"
        + b'{"doc_id": "y", "text": "\xff"}\n'
        + b'{"doc_id": "z", "text": "a\\ud800"}\n'
        + b'{"doc_id": "n", "text": "a\\u0000"}\n'
        + b'{"text": "no id"}\n'
        + lines(OTHER).rstrip()
    )
    source = source_of("jsonl", file)
    assert outcomes(source) == {
        "docs.jsonl:1": "a=one",
        "docs.jsonl:2": "docs.jsonl:2: the line is not JSON at code point 24: Unterminated string starting at",
        "docs.jsonl:4": "docs.jsonl:4: the line is no object of fields",
        "docs.jsonl:5": "docs.jsonl:5: the line is not UTF-8 at byte 25",
        "docs.jsonl:6": "docs.jsonl:6: text has U+D800 (a lone surrogate) at code point 1",
        "docs.jsonl:7": "docs.jsonl:7: text has U+0000 (NUL) at code point 1",
        "docs.jsonl:8": "docs.jsonl:8: doc_id is missing",
        "docs.jsonl:9": "b=two",
    }
    assert source.complete
    identities = [source.identify(item) for item in source.items() if isinstance(item, SourceItem)]
    own = [("default", name) if name else None for name in ("a", "", "", "", "z", "n", "", "b")]
    assert identities == own


def test_all_fields_of_a_record(tmp_path: Path) -> None:
    record = {
        "id": 7,
        "body": "text",
        "title": "T",
        "language": "de",
        "metadata": {"free": "f"},
        "year": 2024,
        "tenant": "globex",
        "acl": ["board"],
        "ignored": {"deep": 1},
    }
    (tmp_path / "a.jsonl").write_bytes(lines(record))
    source = source_of("jsonl", tmp_path / "a.jsonl", id_field="id", text_field="body", allowed_tenants=("globex",))
    (item,) = source.items()
    assert isinstance(item, SourceItem)
    expected = Document("globex", "7", "text", "T", "de", {"free": "f", "year": 2024}, ("board",))
    assert source.read(item) == expected
    far, its_item = pickle.loads(pickle.dumps((source, item)))
    assert far.read(its_item) == expected


def compressed(data: bytes, kind: str) -> bytes:
    return gzip.compress(data) if kind == "gz" else bytes(pa.compress(data, "zstd", asbytes=True))


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_compressed_lines(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"a.jsonl.{kind}"
    file.write_bytes(compressed(lines(GOOD), kind) + compressed(lines(OTHER), kind))
    assert outcomes(source_of("jsonl", file)) == {f"a.jsonl.{kind}:1": "a=one", f"a.jsonl.{kind}:2": "b=two"}


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_bomb_is_stopped_by_what_it_expands_to(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"bomb.jsonl.{kind}"
    file.write_bytes(compressed(lines(GOOD) + b" " * 20_000_000, kind))
    assert file.stat().st_size < 100_000
    with pytest.raises(SourceError, match=r"expands to more than 4,000,000 bytes \(max_total_bytes\)"):
        outcomes(source_of("jsonl", file, max_total_bytes=4_000_000, max_document_bytes=1000))


def test_a_bomb_of_blank_lines_is_stopped_too(tmp_path: Path) -> None:
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b"\n" * 300_000))
    with pytest.raises(SourceError, match=r"expands to more than 100,000 bytes"):
        outcomes(source_of("jsonl", tmp_path / "bomb.jsonl.gz", max_total_bytes=100_000))


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_damaged_file_keeps_what_came_before_and_is_incomplete(tmp_path: Path, kind: str) -> None:
    many = lines(*({"doc_id": f"d{n}", "text": os.urandom(400).hex()} for n in range(500)))
    (tmp_path / f"cut.jsonl.{kind}").write_bytes(compressed(many, kind)[:-90_000])
    (tmp_path / "whole.jsonl").write_bytes(lines(GOOD))
    source = source_of("jsonl", tmp_path)
    found = outcomes(source)
    assert found[f"cut.jsonl.{kind}"] == "unreadable: the compressed data is damaged or cut off"
    assert found["whole.jsonl:1"] == "a=one"
    assert not source.complete


def test_a_line_over_the_limit_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"doc_id": "x", "text": "x" * 400_000}, OTHER))
    source = source_of("jsonl", tmp_path / "a.jsonl", max_document_bytes=1000)
    long, _ = source.items()
    assert isinstance(long, SourceItem)
    assert long.payload is None
    assert outcomes(source) == {
        "a.jsonl:1": "a.jsonl:1: 400,028 bytes; max_document_bytes is 1,000",
        "a.jsonl:2": "b=two",
    }
    assert source.identify(long) is None


def test_stamps_follow_the_record_not_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines(GOOD))
    before = [item for item in source_of("jsonl", file).items() if isinstance(item, SourceItem)]
    file.write_bytes(lines(OTHER, GOOD))
    after = [item for item in source_of("jsonl", file).items() if isinstance(item, SourceItem)]
    assert before[0].stamp == after[1].stamp != after[0].stamp
    assert before[0].locator != after[1].locator
    other = [item for item in source_of("jsonl", file, language="de").items() if isinstance(item, SourceItem)]
    assert other[1].stamp != after[1].stamp


def test_a_folder_of_files_is_read_by_the_folders_rules(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.jsonl").write_bytes(lines(OTHER))
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD))
    (tmp_path / "a.csv").write_bytes(b"x")
    (tmp_path / "link.jsonl").symlink_to("/etc/hostname")
    source = source_of("jsonl", tmp_path)
    found = outcomes(source)
    assert list(found.items()) == [
        ("a.csv", "unsupported: its extension is not one of .jsonl, .jsonl.gz, .jsonl.zst"),
        ("a.jsonl:1", "a=one"),
        ("link.jsonl", "link: a link out of the folder"),
        ("sub/b.jsonl:1", "b=two"),
    ]
    assert source.complete


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_paths_that_cannot_be_a_source(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing"):
        with pytest.raises(SourceError, match=r": no such file or folder\. Remedy: correct path"):
            outcomes(source_of(kind, tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: no (line|row) in any file with one of \."):
        outcomes(source_of(kind, tmp_path / "empty"))


def test_an_empty_file_of_lines_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    with pytest.raises(SourceError, match=r"a\.jsonl: no line in any file"):
        outcomes(source_of("jsonl", tmp_path / "a.jsonl"))


def table(**columns: Any) -> pa.Table:
    return pa.table({"doc_id": ["a", "b"], "text": ["one", "two"], **columns})


def test_rows_become_documents(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    data = table(
        title=["T", None],
        language=["de", ""],
        source=["x", "y"],
        published=[datetime.date(2021, 6, 17), None],
        year=pa.array([2024, None], pa.int16()),
        metadata=[{"free": 1.5, "tags": ["u"]}, None],
        acl=[["board"], None],
        ignored=[b"\xff", b""],
    )
    pq.write_table(data, file, row_group_size=1)
    source = source_of("parquet", file, language="en")
    items = [item for item in source.items() if isinstance(item, SourceItem)]
    metadata = {"free": 1.5, "tags": ("u",), "source": "x", "published": "2021-06-17", "year": 2024}
    assert [source.read(item) for item in items] == [
        Document("default", "a", "one", "T", "de", metadata, ("board",)),
        Document("default", "b", "two", "", "en", {"source": "y"}, ("staff",)),
    ]
    assert [item.locator for item in items] == ["p.parquet:1", "p.parquet:2"]
    assert source.complete


def test_metadata_as_a_map_or_a_json_string(tmp_path: Path) -> None:
    maps = pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string()))
    for name, column, expected in [("m", maps, {"k": "v"}), ("j", ['{"k": "v"}', None], {"k": "v"})]:
        pq.write_table(table(metadata=column), tmp_path / f"{name}.parquet")
        source = source_of("parquet", tmp_path / f"{name}.parquet")
        first, second = (source.read(item) for item in source.items() if isinstance(item, SourceItem))
        assert (first.metadata, second.metadata) == (expected, {})


def test_bad_rows_are_refused_one_by_one(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"\xff\xfe", b"a\0", b"", None, b"x" * 2000, b"fine"], pa.binary()).view(pa.string())
    ids = ["1", "2", "3", "4", "5", "6", None]
    nan = [None, None, None, None, None, None, {"n": float("nan")}]
    pq.write_table(pa.table({"doc_id": ids, "text": raw, "metadata": nan}), tmp_path / "p.parquet")
    assert outcomes(source_of("parquet", tmp_path / "p.parquet", max_document_bytes=1000)) == {
        "p.parquet:1": "1=ok",
        "p.parquet:2": "p.parquet:2: the row is not UTF-8 at byte 0",
        "p.parquet:3": "p.parquet:3: text has U+0000 (NUL) at code point 1",
        "p.parquet:4": "p.parquet:4: text is empty: 0 code points, all blank",
        "p.parquet:5": "p.parquet:5: text is missing",
        "p.parquet:6": "p.parquet:6: 2,000 bytes; max_document_bytes is 1,000",
        "p.parquet:7": "p.parquet:7: NaN is no JSON number",
    }


def test_a_column_that_is_missing_or_of_another_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["one"]}), tmp_path / "ids.parquet")
    with pytest.raises(SourceError) as caught:
        outcomes(source_of("parquet", tmp_path / "ids.parquet"))
    assert caught.value.message.endswith(
        "ids.parquet: nothing could be read: ids.parquet: no column 'doc_id' (or two of them); columns: id, text"
    )
    assert caught.value.remedy == "set id_field and text_field of the source"
    pq.write_table(pa.table({"doc_id": [1], "text": [5]}), tmp_path / "types.parquet")
    found = outcomes(source_of("parquet", tmp_path / "types.parquet"))
    assert found == {"types.parquet:1": "types.parquet:1: text is an integer; a string is needed"}


def _corrupt(file: Path, how: str) -> None:
    data = file.read_bytes()
    damaged = {"cut": data[: len(data) // 2], "empty": b"", "text": b"doc_id,text\n1,2\n" * 99}
    flipped = bytearray(data)
    flipped[4:40] = b"\xff" * 36
    file.write_bytes(damaged.get(how, bytes(flipped)))


@pytest.mark.parametrize("how", ["cut", "empty", "text", "pages"])
def test_a_corrupt_file_is_named(tmp_path: Path, how: str) -> None:
    pq.write_table(table(), tmp_path / "bad.parquet", write_page_checksum=True)
    _corrupt(tmp_path / "bad.parquet", how)
    with pytest.raises(SourceError, match=r"bad\.parquet: damaged or no Parquet file\. Remedy: write or fetch"):
        outcomes(source_of("parquet", tmp_path / "bad.parquet"))
    pq.write_table(table(), tmp_path / "good.parquet")
    source = source_of("parquet", tmp_path)
    assert outcomes(source) == {
        "bad.parquet": "unreadable: damaged or no Parquet file",
        "good.parquet:1": "a=one",
        "good.parquet:2": "b=two",
    }
    assert not source.complete


def test_one_long_text_a_million_times_stays_small(tmp_path: Path) -> None:
    indices = pa.array([0] * 20_000, pa.int32())
    text = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 100_000]))
    data = pa.table({"doc_id": [str(n) for n in range(20_000)], "text": text})
    pq.write_table(data, tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    source = source_of("parquet", tmp_path / "bomb.parquet", max_total_bytes=20_000_000)
    with pytest.raises(SourceError, match=r"expands to more than 20,000,000 bytes"):
        outcomes(source)


def test_a_file_of_many_row_groups_is_in_memory_one_group_at_a_time(tmp_path: Path) -> None:
    texts = pa.array([f"{number} " * 20_000 for number in range(400)])
    data = pa.table({"doc_id": [str(number) for number in range(400)], "text": texts})
    pq.write_table(data, tmp_path / "p.parquet", row_group_size=20, compression="none")
    assert (tmp_path / "p.parquet").stat().st_size > 25_000_000
    del data, texts
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() for _ in source_of("parquet", tmp_path / "p.parquet").items())
    assert most - before < 15_000_000


def test_the_footer_is_believed_when_it_says_too_much(tmp_path: Path) -> None:
    pq.write_table(pa.table({"doc_id": ["a"], "text": ["x" * 5000]}), tmp_path / "p.parquet")
    with pytest.raises(SourceError, match=r"expands to more than 3,000 bytes"):
        outcomes(source_of("parquet", tmp_path / "p.parquet", max_total_bytes=3000))


def test_one_id_in_two_places_is_told_by_its_locators(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD, OTHER, GOOD))
    source = source_of("jsonl", tmp_path / "a.jsonl")
    items = [item for item in source.items() if isinstance(item, SourceItem)]
    assert [item.locator for item in items if source.identify(item) == ("default", "a")] == ["a.jsonl:1", "a.jsonl:3"]


def test_skipped_faults_are_marked() -> None:
    assert Skipped("s", "x", SkipKind.UNREADABLE, "r").failed
    assert not Skipped("s", "x", SkipKind.HIDDEN, "r").failed
