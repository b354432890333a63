"""The filter language: what texts mean, and what the errors say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.filters.canonical import format_filter
from connectors.filters.grammar import parse_filter
from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, Not, Or
from connectors.protocol import FieldType
from m3core.errors import FilterError

FIELDS = {
    "kind": FieldType.STRING,
    "department": FieldType.STRING,
    "tags": FieldType.STRINGS,
    "year": FieldType.INTEGER,
    "weight": FieldType.NUMBER,
    "public": FieldType.BOOLEAN,
    "größe-2": FieldType.INTEGER,
}


@pytest.mark.parametrize(
    ("text", "tree", "canonical"),
    [
        (
            'language = "de" and year >= 2024 and not kind in ("notice", "faq") or exists(department)',
            Or(
                (
                    And(
                        (
                            Equals("language", "de"),
                            Between("year", gte=2024),
                            Not(AnyOf("kind", ("notice", "faq"))),
                        )
                    ),
                    Exists("department"),
                )
            ),
            'language = "de" and year >= 2024 and not kind in ("notice", "faq") or exists(department)',
        ),
        ("year!=3", Not(Equals("year", 3)), "year != 3"),
        ("year = -3", Equals("year", -3), "year = -3"),
        ("weight < 1e-3", Between("weight", lt=0.001), "weight < 0.001"),
        ("weight > .5", Between("weight", gt=0.5), "weight > 0.5"),
        ("weight = 2", Equals("weight", 2), "weight = 2"),
        ("weight = 2.", Equals("weight", 2.0), "weight = 2.0"),
        ("weight <= +1", Between("weight", lte=1), "weight <= 1"),
        ("größe-2 > 1", Between("größe-2", gt=1), "größe-2 > 1"),
        ("public = TRUE", Equals("public", True), "public = true"),
        ("public in (true,false)", AnyOf("public", (True, False)), "public in (true, false)"),
        ("kind NOT IN ('x')", Not(AnyOf("kind", ("x",))), 'not kind in ("x")'),
        ("kind in ()", AnyOf("kind", ()), "kind in ()"),
        ("NOT NOT exists (tags)", Not(Not(Exists("tags"))), "not not exists(tags)"),
        (
            "(year = 1 OR year = 2) And public = true",
            And((Or((Equals("year", 1), Equals("year", 2))), Equals("public", True))),
            "(year = 1 or year = 2) and public = true",
        ),
        (
            "year = 1 or year = 2 and public = true",
            Or((Equals("year", 1), And((Equals("year", 2), Equals("public", True))))),
            "year = 1 or year = 2 and public = true",
        ),
        (
            "not (year = 1 and year = 2)",
            Not(And((Equals("year", 1), Equals("year", 2)))),
            "not (year = 1 and year = 2)",
        ),
        ("((year = 1))", Equals("year", 1), "year = 1"),
        ("true", Everything(), "true"),
        ("false", Or(()), "false"),
        ("\n kind\t=\r\n 'a\"\\'\\\\\\n\\u0041' ", Equals("kind", "a\"'\\\nA"), 'kind = "a\\"\'\\\\\\nA"'),
        ('kind = "\U0001f600 \\u0000"', Equals("kind", "\U0001f600 \x00"), 'kind = "\U0001f600 \\u0000"'),
        ('kind = "and or not"', Equals("kind", "and or not"), 'kind = "and or not"'),
    ],
)
def test_a_text_its_tree_and_its_canonical_text(text: str, tree: Filter, canonical: str) -> None:
    assert parse_filter(text, FIELDS) == tree
    assert format_filter(tree) == canonical
    assert parse_filter(canonical, FIELDS) == tree


EXAMPLE = 'a filter looks like: language = "de" and year >= 2024'


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("", "filter, character 1: the filter ends where a field, 'not', 'exists' or '(' belongs", EXAMPLE),
        ("yeer = 1", "filter, character 1: field 'yeer' is not declared", 'did you mean "year"?'),
        ('kind = "x" or Kind = "y"', "filter, character 15: field 'Kind' is not declared", 'did you mean "kind"?'),
        (
            'year = "a"',
            "filter, character 8: field 'year' is of type integer; 'a' is not",
            "write a whole number, such as 2024",
        ),
        (
            "year = 1.5",
            "filter, character 8: field 'year' is of type integer; 1.5 is not",
            "write a whole number, such as 2024",
        ),
        (
            "year in (1, true)",
            "filter, character 13: field 'year' is of type integer; True is not",
            "write a whole number, such as 2024",
        ),
        ("public = 1", "filter, character 10: field 'public' is of type boolean; 1 is not", "write true or false"),
        (
            "year = 9007199254740993",
            "filter, character 8: integer 9007199254740993 is beyond 2^53, "
            "where stores no longer tell neighbours apart",
            "keep such identifiers in a string field",
        ),
        (
            "weight > -9007199254740993",
            "filter, character 10: integer -9007199254740993 is beyond 2^53, "
            "where stores no longer tell neighbours apart",
            "keep such identifiers in a string field",
        ),
        (
            "weight = 1e999",
            "filter, character 10: inf is not a finite number",
            "use a number that a float64 holds",
        ),
        (
            'tenant = "x"',
            "filter, character 1: tenant cannot be filtered on: it comes from the caller's identity",
            "leave it out of the filter",
        ),
        (
            'not exists(acl) or kind = "x"',
            "filter, character 12: acl cannot be filtered on: it comes from the caller's identity",
            "leave it out of the filter",
        ),
        (
            'kind > "a"',
            "filter, character 8: field 'kind' is of type string, and <, <=, >, >= need an integer or a number",
            "compare it with =, != or in",
        ),
        (
            "year == 1",
            "filter, character 6: '==' stands where =, !=, <, <=, >, >=, 'in' or 'not in' belongs",
            "write =",
        ),
        ("kind = de", "filter, character 8: 'de' stands where a value belongs", 'put text in quotes: "de"'),
        (
            "year = null",
            "filter, character 8: 'null' stands where a value belongs",
            "there is no null: write not exists(field)",
        ),
        (
            '"kind" = 1',
            "filter, character 1: '\"kind\"' stands where a field belongs",
            "write the field without quotes, its value after it",
        ),
        ('kind = "abc', "filter, character 8: a text starts here and does not end", 'close it with "'),
        (
            "year = 12x",
            "filter, character 8: '12x' is not a number",
            "put text in quotes",
        ),
        (
            'kind = "\\q"',
            "filter, character 9: '\\\\q' is not an escape",
            "use \\\\ \\\" \\' \\n \\r \\t or \\uXXXX (no surrogates)",
        ),
        (
            "kind = '\\ud800'",
            "filter, character 9: '\\\\ud800' is not an escape",
            "use \\\\ \\\" \\' \\n \\r \\t or \\uXXXX (no surrogates)",
        ),
        (
            'kind = "\ud800"',
            "filter, character 9: a lone surrogate is not a character",
            "send valid Unicode text",
        ),
        (
            "year = 1 and",
            "filter, character 13: the filter ends where a field, 'not', 'exists' or '(' belongs",
            EXAMPLE,
        ),
        (
            "year = 1 year = 2",
            "filter, character 10: 'year' stands where 'and', 'or' or the end of the filter belongs",
            EXAMPLE,
        ),
        ("(year = 1", "filter, character 10: the filter ends where ')' belongs", EXAMPLE),
        ('kind in ("a" "b")', "filter, character 14: '\"b\"' stands where ',' or ')' belongs", EXAMPLE),
        ("kind in (,)", "filter, character 10: ',' stands where a value belongs", EXAMPLE),
        ("exists year", "filter, character 8: 'year' stands where '(' belongs", EXAMPLE),
        ("kind § 1", "filter, character 6: '\\xa7' is not part of the filter language", EXAMPLE),
        ("year = ٣", "filter, character 8: '\\u0663' is not a number", "put text in quotes"),
        (
            "(" * 33 + "public = true" + ")" * 33,
            "filter, character 33: nested deeper than 32 levels",
            "write it flatter, with in (...) lists",
        ),
        ("x" * 4097, "the filter has 4097 bytes; at most 4096 are allowed", "shorten it"),
        (
            f"year in ({','.join(['1'] * 1001)})",
            "the filter has 1001 values; at most 1000 are allowed",
            "split the request",
        ),
    ],
)
def test_an_error_says_where_what_and_what_to_do(text: str, message: str, remedy: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text, FIELDS)
    assert (caught.value.message, caught.value.remedy) == (message, remedy)
    assert "\n" not in str(caught.value)


def _text_conditions() -> st.SearchStrategy[Filter]:
    text = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
    integer = st.integers(-(2**53), 2**53)
    number = st.one_of(integer, st.floats(allow_nan=False, allow_infinity=False))

    def listed(name: str, value: st.SearchStrategy[object]) -> st.SearchStrategy[Filter]:
        return st.one_of(
            st.builds(Equals, st.just(name), value),
            st.builds(AnyOf, st.just(name), st.lists(value, max_size=3).map(tuple)),
            st.builds(Exists, st.just(name)),
        )

    bounds = st.sampled_from(("gt", "gte", "lt", "lte"))
    return st.one_of(
        listed("kind", text),
        listed("title", text),
        listed("tags", text),
        listed("year", integer),
        listed("weight", number),
        listed("public", st.booleans()),
        st.builds(lambda bound, value: Between("year", **{bound: value}), bounds, integer),
        st.builds(lambda bound, value: Between("weight", **{bound: value}), bounds, number),
        st.sampled_from((Everything(), Or(()))),
    )


def _text_trees() -> st.SearchStrategy[Filter]:
    def grown(parts: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        several = st.lists(parts, min_size=2, max_size=4).map(tuple)
        return st.one_of(st.builds(Not, parts), st.builds(And, several), st.builds(Or, several))

    return st.recursive(_text_conditions(), grown, max_leaves=10)


@given(_text_trees())
def test_every_tree_that_a_text_can_give_comes_back_from_its_canonical_text(tree: Filter) -> None:
    text = format_filter(tree)
    assert parse_filter(text, FIELDS) == tree
    assert "\n" not in text


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(("kind", "=", "(", ")", "and", "or", "not", "in", "exists", "'a'", "1", ",", "<"))
        ).map(" ".join),
    )
)
def test_any_text_is_a_filter_or_a_filter_error(text: str) -> None:
    try:
        tree = parse_filter(text, FIELDS)
    except FilterError:
        return
    assert parse_filter(format_filter(tree), FIELDS) == tree
