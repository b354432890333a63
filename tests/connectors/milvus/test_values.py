"""Keys of values: they order as numbers do, tell strings apart, and never look like what is absent."""

from __future__ import annotations

import hashlib
import math
import re

from hypothesis import given
from hypothesis import strategies as st

from connectors.milvus.values import (
    ABSENT_NUMBER,
    ABSENT_TEXT,
    columns_of,
    field_values,
    list_key,
    number_key,
    text_key,
)
from connectors.protocol import FieldType

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53), st.booleans(), st.just(-0.0)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(NUMBERS, NUMBERS)
def test_keys_of_numbers_order_as_the_numbers(one: float, other: float) -> None:
    assert (number_key(one) < number_key(other)) == (one < other)
    assert (number_key(one) == number_key(other)) == (one == other)


@given(NUMBERS)
def test_every_number_is_above_what_is_absent_and_fits_into_64_bits(number: float) -> None:
    assert ABSENT_NUMBER < number_key(number) < 2**63


def test_the_ends_of_the_number_line() -> None:
    largest = math.nextafter(math.inf, 0)
    assert number_key(0) == number_key(-0.0) == number_key(False) == 0
    assert number_key(5e-324) == 1
    assert number_key(largest) == -number_key(-largest) == 0x7FEFFFFFFFFFFFFF
    assert number_key(2**53) == number_key(float(2**53)) > number_key(2**53 - 1)


@given(TEXTS)
def test_a_key_of_text_is_its_sha256_and_nothing_of_the_text(text: str) -> None:
    key = text_key(text)
    assert re.fullmatch("[0-9a-f]{32}", key)
    assert hashlib.sha256(text.encode()).hexdigest().startswith(key)
    assert key != ABSENT_TEXT


@given(st.lists(TEXTS, max_size=5), TEXTS)
def test_a_list_contains_the_key_of_each_of_its_texts_and_of_no_other(texts: list[str], other: str) -> None:
    key = list_key(texts)
    assert all(text_key(text) in key for text in texts)
    assert (text_key(other) in key) == (other in texts)
    assert (key == ABSENT_TEXT) == (not texts)


def test_every_declared_field_has_a_column_of_its_own_also_where_a_row_lacks_it() -> None:
    fields = {"größe": FieldType.NUMBER, "tags": FieldType.STRINGS, "a-b": FieldType.STRING, "on": FieldType.BOOLEAN}
    assert columns_of(fields) == {"a-b": "f0", "größe": "f1", "on": "f2", "tags": "f3"}
    absent = field_values({"undeclared": 1}, fields)
    assert sorted(absent.values(), key=str) == sorted([ABSENT_NUMBER, ABSENT_NUMBER, ABSENT_TEXT, ABSENT_TEXT], key=str)
    there = field_values({"größe": 2, "tags": ("x", "y"), "a-b": "", "on": False}, fields)
    assert there[columns_of(fields)["on"]] == 0
    assert there[columns_of(fields)["größe"]] == number_key(2.0)
    assert there[columns_of(fields)["a-b"]] == text_key("")
    assert there[columns_of(fields)["tags"]] == f"{text_key('x')}|{text_key('y')}"
