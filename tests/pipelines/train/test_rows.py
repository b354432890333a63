"""Rows from files: what is right is read, what is wrong is counted, named and never used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import DocumentError, TrainingError, UsageError
from m3core.train.examples import Row
from pipelines.train.rows import read_rows, row_of
from tests.pipelines.train.conftest import Write

_GOOD = {"query": "who", "pos": ["the key"]}


def test_every_field_of_flag_embeddings_rows_is_read(write: Write) -> None:
    full = {
        "query": "who",
        "pos": ["the key", "a desk"],
        "neg": ["night"],
        "pos_scores": [3, 2.5],
        "neg_scores": [-1],
        "prompt": "find: ",
        "type": "symmetric_sts",
        "id": "ignored",
    }
    reading = read_rows([write("a.jsonl", [full, "", {**_GOOD, "neg": None, "pos_scores": None}])], 0)
    assert reading.rows == [
        Row("who", ("the key", "a desk"), ("night",), (3.0, 2.5), (-1.0,), "find: ", "symmetric_sts", "a.jsonl:1"),
        Row("who", ("the key",), place="a.jsonl:3"),
    ]
    assert [(each.name, each.rows) for each in reading.files] == [("a.jsonl", 2)]
    assert not reading.lines()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("not json", "it is not JSON at code point 0"),
        ('["query"]', "it is a list; an object is needed"),
        ('{"query": "a", "query": "b", "pos": ["x"]}', "a field is given twice"),
        ({"pos": ["x"]}, "query is missing"),
        ({"query": " \n", "pos": ["x"]}, "query is empty"),
        ({"query": 7, "pos": ["x"]}, "query is an integer"),
        ({"query": "a\ud800", "pos": ["x"]}, "query has U+D800"),
        ({"query": "a"}, "pos is missing"),
        ({"query": "a", "pos": []}, "pos is missing"),
        ({"query": "a", "pos": [""]}, "pos is empty"),
        ({"query": "a", "pos": {"x": 1}}, "pos is an object; a list of strings is needed"),
        ({"query": "a", "pos": ["x"], "neg": [None]}, "neg is missing"),
        ({"query": "a", "pos": ["x"], "neg": ["y", "x"]}, "a passage is in pos and in neg"),
        ({"query": "a", "pos": ["x"], "pos_scores": [1, 2]}, "pos_scores is not a list of 1 finite numbers"),
        ({"query": "a", "pos": ["x"], "pos_scores": [True]}, "pos_scores is not a list of 1 finite numbers"),
        ({"query": "a", "pos": ["x"], "neg": ["y"], "pos_scores": [1]}, "neg_scores is not a list of 1 finite numbers"),
        ({"query": "a", "pos": ["x"], "neg": ["x\n "]}, "a passage is in pos and in neg"),
        ('{"query": "a", "pos": ["x"], "pos_scores": [1e999]}', "pos_scores is not a list of 1 finite numbers"),
        ({"query": "a", "pos": ["x"], "pos_scores": [10**400]}, "pos_scores is not a list of 1 finite numbers"),
        ({"query": "a", "pos": ["x"], "type": "odd"}, "type is none of normal, retrieval"),
        ({"query": "a", "pos": ["x"], "prompt": 3}, "prompt is an integer"),
    ],
)
def test_a_broken_row_is_named_and_left_out(write: Write, row: Any, reason: str) -> None:
    path = write("a.jsonl", [_GOOD, row])
    reading = read_rows([path], 1)
    assert [one.place for one in reading.rows] == ["a.jsonl:1"]
    assert [(each.place, each.reason.startswith(reason)) for each in reading.broken] == [("a.jsonl:2", True)]
    assert reading.lines()[0].startswith("1 broken rows, left out: a.jsonl:2 (")
    with pytest.raises(TrainingError, match=r"1 of 2 rows are broken, at most 0 may be: a\.jsonl:2 \(") as raised:
        read_rows([path], 0)
    assert raised.value.remedy == "correct them, or leave them out with --max-bad-rows 1"


def test_a_row_that_came_before_is_left_out_in_any_file_and_order(write: Write) -> None:
    first = write("a.jsonl", [{"query": "who", "pos": ["x", "y"], "neg": ["z"]}, _GOOD])
    second = write("b.jsonl", [_GOOD, {"query": "who", "pos": ["y", "x"], "neg": ["z"]}, {**_GOOD, "prompt": "p"}])
    reading = read_rows([first, second], 0)
    assert [row.place for row in reading.rows] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:3"]
    assert reading.duplicates == ["b.jsonl:1", "b.jsonl:2"]
    assert reading.lines() == ["2 rows that came before, left out: b.jsonl:1, b.jsonl:2"]
    assert [each.rows for each in reading.files] == [2, 1]


def test_parquet_pairs_with_any_number_of_negatives(tmp_path: Path) -> None:
    table = pa.table(
        {
            "query": ["who", "what", None],
            "positive": ["the key", "a desk", "x"],
            "negative": ["night", None, "y"],
            "negative_2": [["train", "day"], [], None],
            "language": ["en", "en", "en"],
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    reading = read_rows([tmp_path / "p.parquet"], 1)
    assert reading.rows == [
        Row("who", ("the key",), ("night", "train", "day"), place="p.parquet:1"),
        Row("what", ("a desk",), place="p.parquet:2"),
    ]
    assert [(each.place, each.reason) for each in reading.broken] == [("p.parquet:3", "query is missing")]


def test_a_repeated_passage_keeps_its_first_score(write: Write) -> None:
    row = {"query": "a", "pos": ["x"], "neg": ["b", "c", "b"], "pos_scores": [3], "neg_scores": [1, 0, 2]}
    (read,) = read_rows([write("a.jsonl", [row])], 0).rows
    assert (read.negatives, read.negative_scores) == (("b", "c"), (1.0, 0.0))


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("positive", [{"text": "a"}, {"text": "b"}], "positive is an object; a string or a list of strings is needed"),
        ("positive", [1, 2], "positive is an integer; a string or a list of strings is needed"),
        ("negative", [0.5, 0.25], "negative is a number; a string or a list of strings is needed"),
        ("pos_scores", [[float("nan")], [1.0]], "pos_scores is not a list of 1 finite numbers, one a passage"),
    ],
)
def test_parquet_columns_that_hold_something_else_are_told(
    tmp_path: Path, column: str, values: list[Any], reason: str
) -> None:
    pq.write_table(
        pa.table({"query": ["who", "what"], "positive": ["the key", "a desk"]} | {column: values}),
        tmp_path / "p.parquet",
    )
    with pytest.raises(TrainingError) as raised:
        read_rows([tmp_path / "p.parquet"], 0)
    assert f"p.parquet:1 ({reason})" in raised.value.message


def test_parquet_columns_about_negatives_are_no_negatives(tmp_path: Path) -> None:
    table = {"query": ["who"], "positive": ["the key"], "negatives": [["night"]], "negative_12": ["day"]}
    pq.write_table(pa.table({**table, "negative_id": ["doc7"], "negative_score": [0.3]}), tmp_path / "p.parquet")
    (row,) = read_rows([tmp_path / "p.parquet"], 0).rows
    assert row.negatives == ("night", "day")


def test_files_that_are_none_are_refused(write: Write, tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "p.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    for name, told in {
        "none.jsonl": "no such file",
        "p.parquet": "columns are question; query and positive are needed",
        "broken.parquet": "damaged or no Parquet file",
    }.items():
        with pytest.raises(UsageError, match=told):
            read_rows([tmp_path / name], 0)
    with pytest.raises(UsageError, match="its extension is not one of"):
        read_rows([write("rows.txt", [_GOOD])], 0)
    with pytest.raises(TrainingError, match=r"empty\.jsonl: no row to train on"):
        read_rows([write("empty.jsonl", [])], 0)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = st.sampled_from(["query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type"])


@given(st.dictionaries(_FIELDS, _JSON, max_size=7) | _JSON)
def test_whatever_is_in_a_row_it_is_right_or_told(record: object) -> None:
    try:
        row = row_of(record, "f:1")
    except DocumentError:
        return
    assert row.query.strip()
    assert row.positives
    assert all(text.strip() for text in (*row.positives, *row.negatives))
    assert len(row.positive_scores) in (0, len(row.positives))
