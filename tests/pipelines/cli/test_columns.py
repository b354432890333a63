from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.config.model import RESERVED_FIELDS
from pipelines.cli.columns import Columns, guess_columns

LONG = "a sentence that is long enough to be the text of a document, by far"


def test_usual_names_and_types() -> None:
    rows: list[dict[str, Any]] = [
        {
            "doc_id": f"d{n}",
            "title": "T",
            "text": LONG,
            "language": "en",
            "year": 2020 + n,
            "share": n / 2 if n % 2 else n,
            "draft": bool(n % 2),
            "tags": ["a"] if n else [],
            "source": "x",
            "note": LONG * 10,
            "nested": {"a": 1},
            "acl": ["staff"],
            "metadata": {"kind": "faq", "year": "text here, number above", "id": 3},
        }
        for n in range(4)
    ]
    assert guess_columns(rows) == Columns(
        id_field="doc_id",
        text_field="text",
        fields={
            "year": "integer",
            "share": "number",
            "draft": "boolean",
            "tags": "strings",
            "source": "string",
            "kind": "string",
        },
        unused=("note", "nested"),
        own_acl=True,
    )


@pytest.mark.parametrize(
    ("rows", "id_field", "text_field"),
    [
        ([{"_id": "1", "title": "t", "text": LONG}, {"_id": "2", "title": "t", "text": LONG}], "_id", "text"),
        ([{"n": 1, "body": "short"}, {"n": 2, "body": "short"}], "n", "body"),
        ([{"code": "x", "words": LONG}, {"code": "y", "words": LONG}], "code", "words"),
        # An id that is given twice identifies nothing; the next candidate does.
        ([{"id": 1, "url": "a", "text": LONG}, {"id": 1, "url": "b", "text": LONG}], "url", "text"),
        ([{"id": None, "url": "a", "text": LONG}, {"id": 1, "url": "b", "text": LONG}], "url", "text"),
    ],
)
def test_id_and_text(rows: list[dict[str, Any]], id_field: str, text_field: str) -> None:
    columns = guess_columns(rows)
    assert columns is not None
    assert (columns.id_field, columns.text_field) == (id_field, text_field)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"id": 1}, {"id": 2}],
        [{"text": LONG}, {"text": LONG}],
        [{"id": 1, "text": 5}],
        [{"id": True, "text": LONG}],
    ],
)
def test_nothing_to_go_by(rows: list[dict[str, Any]]) -> None:
    assert guess_columns(rows) is None


def test_mixed_types_are_not_declared() -> None:
    rows = [{"id": 1, "text": LONG, "x": 1}, {"id": 2, "text": LONG, "x": "one"}]
    columns = guess_columns(rows)
    assert columns is not None
    assert (columns.fields, columns.unused) == ({}, ("x",))


names = st.sampled_from(["id", "doc_id", "text", "body", "title", "acl", "metadata", "year", "x"])
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.lists(st.text(max_size=3))


@given(st.lists(st.dictionaries(names, values | st.dictionaries(names, values, max_size=3), max_size=6), max_size=5))
def test_any_rows_give_valid_columns_or_none(rows: list[dict[str, Any]]) -> None:
    columns = guess_columns(rows)
    if columns is None:
        return
    ids = [row[columns.id_field] for row in rows]
    assert len({str(value) for value in ids}) == len(ids)
    assert all(isinstance(row.get(columns.text_field) or "", str) for row in rows)
    assert columns.id_field != columns.text_field
    assert not set(columns.fields) & (RESERVED_FIELDS | {columns.id_field, columns.text_field})
