"""The contract server's own language: what it refuses, and that it means what Milvus means."""

from __future__ import annotations

import pytest
from hypothesis import given

from connectors.filters.evaluate import matches
from connectors.filters.tree import Filter
from connectors.milvus.filters import milvus_filter
from connectors.milvus.records import record_of
from connectors.milvus.schema import Layout
from tests.conformance.data import FIELDS, SCHEMA, make_rows
from tests.conformance.trees import trees
from tests.servers.contract.expressions import predicate

TYPES = {"a": str, "n": int}


@pytest.mark.parametrize(
    ("expression", "row", "passes"),
    [
        ("", {}, True),
        ('a == "x"', {"a": "x"}, True),
        ("a == 'x'", {"a": "y"}, False),
        ("n >= -3", {"n": -3}, True),
        ("n in [1, 2] and not (n == 2)", {"n": 2}, False),
        ('a == "or" or n == 1', {"a": "or", "n": 2}, True),
        ('n == 1 or n == 2 and a == "x"', {"a": "y", "n": 1}, True),
        ("a like '%b%'", {"a": "abc"}, True),
        ("not a like '%b%'", {"a": "abc"}, False),
    ],
)
def test_an_expression_says_what_it_says_to_a_server(expression: str, row: dict[str, object], passes: bool) -> None:
    assert predicate(expression, TYPES)(row) is passes


@pytest.mark.parametrize(
    "expression",
    [
        "b == 1", "n == 'x'", "a == 1", "n == 1 n == 2", "(n == 1", "n = 1", "n in []", "a like 'b%'", "n == 1.5",
        "n == 9223372036854775808", 'a == "\\""', "and", "not", "a", "1 == n", "n in [1", "n ==", "a == b",
    ],
)  # fmt: skip
def test_everything_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        predicate(expression, TYPES)


@given(where=trees())
def test_what_we_compile_means_the_tree(where: Filter) -> None:
    rows = make_rows(12)
    columns = {"tenant", "doc_id", "language", "title", "acl", "id"}
    kinds = {name: type(value) for name, value in record_of(rows[0], SCHEMA, Layout.STRUCTS).items()}
    says = predicate(milvus_filter(where, FIELDS), {name: kind for name, kind in kinds.items() if kind in (str, int)})
    assert columns <= kinds.keys()
    for row in rows:
        assert says(record_of(row, SCHEMA, Layout.STRUCTS)) == matches(where, row.chunk)
