"""Texts in, each with its id; faults named by line or row, never by text."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import UsageError
from pipelines.encode import reading
from pipelines.encode.reading import Input, Text, Totals, from_arguments, from_file, from_lines

# What a text may hold: no NUL and no surrogate.
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))
SECRET = "nobody may read this"


def pairs(given: Input) -> list[tuple[str, str]]:
    return [(one.id, one.text) for one in given.read()]


def outcome(given: Input) -> tuple[list[Text], UsageError | None]:
    """The texts up to the first fault, and the fault."""
    found: list[Text] = []
    try:
        for one in given.read():
            found.append(one)
    except UsageError as error:
        return found, error
    return found, None


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, **columns: Sequence[Any]) -> Path:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


def test_arguments_are_numbered_and_taken_as_they_are() -> None:
    given = from_arguments(["", " a\nb "])
    assert pairs(given) == pairs(given) == [("1", ""), ("2", " a\nb ")]
    assert given.totals() == Totals(texts=2, text_bytes=5)


def test_an_argument_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--text 2: the text has U\+DC80 \(a lone surrogate\) at code point 1"):
        pairs(from_arguments(["a", "b\udc80"]))


@given(st.lists(TEXTS.map(lambda text: "".join(text.splitlines()))))
def test_every_line_is_a_text_an_empty_one_too(texts: list[str]) -> None:
    texts = [text.lstrip("\ufeff") for text in texts]
    for end in ("\n", "\r\n"):
        stream = io.BytesIO("".join(text + end for text in texts).encode())
        assert pairs(from_lines(stream, "stdin")) == [(str(i), text) for i, text in enumerate(texts, start=1)]


def test_a_byte_order_mark_and_an_open_end_are_no_text() -> None:
    assert pairs(from_lines(io.BytesIO(b"\xef\xbb\xbfa\n\nb"), "stdin")) == [("1", "a"), ("2", ""), ("3", "b")]


def test_lines_are_read_once_and_so_not_counted() -> None:
    assert from_lines(io.BytesIO(b"a\n"), "stdin").totals() is None


@given(st.binary(max_size=40))
def test_any_bytes_are_lines_or_a_named_fault(data: bytes) -> None:
    texts, fault = outcome(from_lines(io.BytesIO(data), "stdin"))
    number = data.count(b"\n") + bool(data.rpartition(b"\n")[2])
    assert len(texts) == number if fault is None else fault.message.startswith(f"stdin line {len(texts) + 1}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\xff\n", "stdin line 2 is not UTF-8 at byte 1"),
        (b"a\nb\x00c\n", r"stdin line 2: the text has U\+0000 \(NUL\) at code point 1"),
        (b"a\n123456789", "stdin line 2 has more than 8 bytes"),
        (b"a\n123456789\n", "stdin line 2 has more than 8 bytes"),
        (b"a\n123456789abcdef\n", "stdin line 2 has more than 8 bytes"),
    ],
)
def test_a_line_that_is_no_text_is_named(monkeypatch: pytest.MonkeyPatch, data: bytes, message: str) -> None:
    monkeypatch.setattr(reading, "MAX_TEXT_BYTES", 8)
    with pytest.raises(UsageError, match=message):
        pairs(from_lines(io.BytesIO(data), "stdin"))
    assert pairs(from_lines(io.BytesIO(b"12345678\n12345678"), "stdin")) == [("1", "12345678"), ("2", "12345678")]


ROWS = [{"id": "a", "text": "one"}, {"doc_id": 7, "text": ""}, {"id": "c", "doc_id": "x", "text": "ж", "more": [1]}]
FOUND = [("a", "one"), ("7", ""), ("c", "ж")]


def test_json_lines_plain_and_compressed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", ROWS)
    assert pairs(from_file(path)) == FOUND
    assert from_file(path).totals() == Totals(texts=3, text_bytes=5)
    packed = tmp_path / "T.JSONL.GZ"
    packed.write_bytes(gzip.compress(path.read_bytes() + b"\n  \n"))
    assert pairs(from_file(packed)) == FOUND
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    assert pairs(from_file(link)) == FOUND


def test_parquet_by_id_or_doc_id(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", id=["a", "b"], text=["one", "ж"], metadata=[1, 2])
    assert pairs(from_file(path)) == [("a", "one"), ("b", "ж")]
    assert from_file(path).totals() == Totals(texts=2, text_bytes=5)
    assert pairs(from_file(write_parquet(tmp_path / "u.parquet", doc_id=[1, 2], text=["x", ""]))) == [
        ("1", "x"), ("2", ""),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.text("abcжд", min_size=1), TEXTS), max_size=5))
def test_whatever_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    lines = write_lines(folder / "t.jsonl", [{"id": name, "text": text} for name, text in rows])
    assert pairs(from_file(lines)) == rows
    if rows:
        table = write_parquet(folder / "t.parquet", id=[name for name, _ in rows], text=[text for _, text in rows])
        assert pairs(from_file(table)) == rows


@given(
    st.binary(max_size=60)
    | st.sampled_from([b'{"id":1,"text":"a"}']).flatmap(lambda good: st.permutations(good).map(bytes))
)
def test_any_bytes_are_records_or_a_named_fault(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "t.jsonl"
    path.write_bytes(data)
    found, fault = outcome(from_file(path))
    assert all(one.id for one in found)
    assert fault is None or (fault.message.startswith(f"{path} line ") and fault.remedy)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "SECRET"}', "line 2: id and doc_id are missing. Remedy: give every text an id"),
        ('{"id": null, "text": "SECRET"}', "line 2: id and doc_id are missing"),
        ('{"id": 1.5, "text": "SECRET"}', "line 2: id is a number; a string is needed"),
        ('{"id": "", "text": "SECRET"}', "line 2: id is empty"),
        ('{"id": "a"}', "line 2: text is missing"),
        ('{"id": "a", "text": ["SECRET"]}', "line 2: text is a list; a string is needed"),
        ('{"id": "a", "text": "SECRET \\u0000"}', r"line 2: text has U\+0000 \(NUL\) at code point 21"),
        ('{"id": "a", "text": "SECRET"', "line 2: it is not JSON at code point 42"),
        ('["SECRET"]', "line 2: it is a list; an object with id and text is needed"),
        ('{"id": "a", "id": "b", "text": "SECRET"}', "line 2: a field is given twice"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_its_text_kept_back(tmp_path: Path, line: str, message: str) -> None:
    path = write_lines(tmp_path / "t.jsonl", ROWS[:1])
    with path.open("a", encoding="utf-8") as file:
        file.write(line.replace("SECRET", SECRET) + "\n")
    with pytest.raises(UsageError, match=message) as raised:
        pairs(from_file(path))
    assert raised.value.message.startswith(str(path))
    assert SECRET not in str(raised.value)
    with pytest.raises(UsageError, match=message):
        from_file(path).totals()


def test_rows_of_parquet_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", id=["a", "b"], text=["one", None])
    with pytest.raises(UsageError, match=r"t\.parquet row 2: text is missing"):
        pairs(from_file(path))


def test_a_text_over_the_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_TEXT_BYTES", 10)
    path = write_parquet(tmp_path / "t.parquet", id=["a", "b"], text=["one", "x" * 11])
    with pytest.raises(UsageError, match="row 2 has 11 bytes; a text has at most 10"):
        pairs(from_file(path))


def test_files_that_cannot_be_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent.jsonl: no such file"):
        from_file(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match="no regular file"):
        from_file(tmp_path)
    (tmp_path / "t.txt").write_text("a")
    with pytest.raises(UsageError, match=r"its extension is not one of .jsonl, .jsonl.gz, .jsonl.zst, .parquet"):
        from_file(tmp_path / "t.txt")
    (tmp_path / "t.parquet").write_text("a")
    with pytest.raises(UsageError, match=r"damaged or no Parquet file"):
        from_file(tmp_path / "t.parquet")
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1, "text": "a"}\n' * 999)[:40])
    with pytest.raises(UsageError, match=r"t.jsonl.gz: the compressed data is damaged or cut off"):
        from_file(tmp_path / "t.jsonl.gz").totals()


@pytest.mark.parametrize("columns", [{"id": [1]}, {"text": ["a"]}, {"key": ["a"], "text": ["b"]}])
def test_a_table_without_the_columns_is_refused(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    path = write_parquet(tmp_path / "t.parquet", **columns)
    told = f"it needs one column id or doc_id and one column text; its columns: {', '.join(columns)}"
    with pytest.raises(UsageError, match=told):
        from_file(path)
