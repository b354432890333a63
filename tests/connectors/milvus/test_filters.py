"""Expressions: what they consist of, whatever a caller asks for. What they mean is the conformance suite's matter."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, Not, Or
from connectors.ids import known_form
from connectors.milvus.filters import EVERY_ROW, among, milvus_filter
from connectors.milvus.values import number_key, text_key
from m3core.errors import FilterError
from tests.conformance.data import FIELDS, row_id

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Everything that an expression may hold: columns, digests in quotes, integers, operators.
_COLUMN = r"(id|tenant|acl|doc_id|language|title|f[0-5])"
_DIGEST = r"[0-9a-f]{32}"
_WORDS = re.compile(
    rf"""({_COLUMN}\ (==|!=)\ "" | {_COLUMN}\ like\ '%{_DIGEST}%' | {_COLUMN}\ (<|<=|>|>=)\ -?\d+
    | {_COLUMN}\ in\ \[("{_DIGEST}"|-?\d+)(,\ ("{_DIGEST}"|-?\d+))*\] | not\ | \ and\  | \ or\  | [()])*""",
    re.VERBOSE,
)


def conditions() -> st.SearchStrategy[Filter]:
    names = st.sampled_from(["kind", "title", "doc_id", "tenant"])
    numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
    bound = st.one_of(st.none(), numbers)
    return st.one_of(
        st.builds(Equals, names, TEXTS),
        st.builds(AnyOf, st.sampled_from(["tags", "acl"]), st.lists(TEXTS, max_size=4).map(tuple)),
        st.builds(Equals, st.just("public"), st.booleans()),
        st.builds(Between, st.just("weight"), bound, bound, bound, bound),
        st.builds(AnyOf, st.just("weight"), st.lists(numbers, max_size=3).map(tuple)),
        st.builds(Exists, st.sampled_from(["kind", "tags", "year", "public"])),
        st.just(Everything()),
    )


def trees() -> st.SearchStrategy[Filter]:
    return st.recursive(
        conditions(),
        lambda parts: st.one_of(
            st.builds(Not, parts),
            st.builds(And, st.lists(parts, max_size=3).map(tuple)),
            st.builds(Or, st.lists(parts, max_size=3).map(tuple)),
        ),
        max_leaves=6,
    )


@given(trees())
def test_no_text_of_a_caller_stands_in_an_expression(where: Filter) -> None:
    assert _WORDS.fullmatch(milvus_filter(where, FIELDS))


def test_what_the_conditions_look_like() -> None:
    assert milvus_filter(Everything(), FIELDS) == EVERY_ROW
    assert milvus_filter(Equals("tenant", "acme"), FIELDS) == f'tenant in ["{text_key("acme")}"]'
    assert milvus_filter(AnyOf("acl", ("a", "b")), FIELDS) == (
        f"(acl like '%{text_key('a')}%') or (acl like '%{text_key('b')}%')"
    )
    assert milvus_filter(Between("year", gte=2024, gt=3), FIELDS) == f"f5 >= {number_key(2024)}"
    assert milvus_filter(Between("year", lt=2024), FIELDS) == f"f5 < {number_key(2024)} and f5 > -9223372036854775807"


def test_what_no_store_answers_is_refused() -> None:
    for where in (Equals("yaer", 1), Equals("year", "x"), Between("year", gt=2**53 + 2)):
        with pytest.raises(FilterError):
            milvus_filter(where, FIELDS)


@pytest.mark.parametrize("odd", ['"] or id != "', "x", "", row_id(1) + "'", row_id(1).upper(), row_id(1) + "/x"])
def test_an_id_that_is_none_of_ours_never_stands_in_an_expression(odd: str) -> None:
    assert known_form([row_id(1), odd, row_id(1)]) == [row_id(1)]
    with pytest.raises(ValueError, match="known_form"):
        among([row_id(1), odd])


def test_ids_and_conditions_hold_together() -> None:
    one, two = row_id(1), row_id(2)
    assert among([one, two]) == f'id in ["{one}", "{two}"]'
    assert among([one], "f0 > 1") == f'id in ["{one}"] and (f0 > 1)'
    assert among([one], column="chunk") == f'chunk in ["{one}"]'
