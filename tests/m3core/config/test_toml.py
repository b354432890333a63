from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.config.toml import toml_key, toml_string, toml_value


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_every_string_and_key_reads_back(text: str) -> None:
    assert tomllib.loads(f"{toml_key(text)} = {toml_string(text)}") == {text: text}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        (None, "none"),
        (Path("a/b"), '"a/b"'),
        (("a", "b"), '["a", "b"]'),
        ((), "[]"),
        ({"a": 1, "b c": ["x"]}, '{ a = 1, "b c" = ["x"] }'),
        ({}, "{}"),
        ('say "hi"\n', '"say \\"hi\\"\\n"'),
    ],
)
def test_values_as_they_are_shown(value: object, written: str) -> None:
    assert toml_value(value) == written
