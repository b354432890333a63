from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from m3core.config.positions import key_lines
from m3core.config.toml import toml_key, toml_value

EVERYTHING = '''\
# a comment with [brackets] and = signs
top = 1

[plain]   # behind a header
text = """
[not.a.table]
key = "inside a string"
"""
list = [
  "a",   # ]
  { b = 1 },
]
"quoted key" = 'x'
dotted.inner = 2

  [ spaced . "and quoted" ]
inline = { one = 1, two = { three = 3 } }

[[many]]
x = 1
[[many]]
x = 2
'''


def test_every_kind_of_statement_has_its_line() -> None:
    assert key_lines(EVERYTHING) == {
        ("top",): 2,
        ("plain",): 4,
        ("plain", "text"): 5,
        ("plain", "list"): 9,
        ("plain", "list", "b"): 9,
        ("plain", "quoted key"): 13,
        ("plain", "dotted"): 14,
        ("plain", "dotted", "inner"): 14,
        ("spaced",): 16,
        ("spaced", "and quoted"): 16,
        ("spaced", "and quoted", "inline"): 17,
        ("spaced", "and quoted", "inline", "one"): 17,
        ("spaced", "and quoted", "inline", "two"): 17,
        ("spaced", "and quoted", "inline", "two", "three"): 17,
        ("many",): 19,
        ("many", "x"): 20,
    }


keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
values = st.recursive(
    st.integers(-(2**62), 2**62) | st.booleans() | st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=3), max_size=4), st.integers(0, 3))
def test_every_key_that_tomllib_reads_is_found_where_it_was_written(
    tables: dict[str, dict[str, object]], blank_lines: int
) -> None:
    lines: list[str] = []
    expected: dict[tuple[str, ...], int] = {}
    for table, entries in tables.items():
        lines += [""] * blank_lines + [f"[{toml_key(table)}]"]
        expected[(table,)] = len(lines)
        for key, value in entries.items():
            lines.append(f"{toml_key(key)} = {toml_value(value)}")
            expected[(table, key)] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    assert key_lines(text) == expected
