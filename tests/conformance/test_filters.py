"""Filters: every store answers exactly what `connectors.filters.evaluate` says, for any tree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from connectors.filters.evaluate import matches
from connectors.filters.grammar import parse_filter
from connectors.filters.identity import identity_filter, with_identity
from connectors.filters.tree import And, AnyOf, Between, Equals, Exists, Filter, Not, Or
from m3core.errors import FilterError
from m3core.types import Identity, Metadata
from tests.conformance.data import FIELDS, TENANTS, make_query, make_rows, someone, with_chunk
from tests.conformance.store import Store, quick_folder
from tests.conformance.trees import trees

ROWS = make_rows(60)


@pytest.fixture(scope="module")
def filled(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """60 rows in two runs: an optimised part and a fresh one."""
    with quick_folder(tmp_path_factory.mktemp("filled")) as folder:
        store = Store.of(kind, folder)
        store.write(ROWS[:40])
        store.write(ROWS[40:])
        yield store
        store.close()


def passing(where: Filter) -> set[str]:
    return {row.chunk.id for row in ROWS if matches(where, row.chunk)}


def assert_agrees(store: Store, where: Filter) -> None:
    expected = passing(where)
    assert store.count(where) == len(expected), where
    assert store.visible(where) == expected, where


@pytest.mark.parametrize(
    "text",
    [
        'kind = "notice"',
        'kind != "notice"',
        'kind = ""',
        'kind in ("notice", "faq")',
        'not kind in ("notice", "faq")',
        'kind not in ("notice", "")',
        "kind in ()",
        "not kind in ()",
        'tags = "a"',
        'tags != "a"',
        'tags in ("a", "true")',
        'tags = "true"',
        "exists(tags)",
        "not exists(tags)",
        "year = 2024",
        "year != 2024",
        "year < 2024",
        "not year < 2024",
        "year <= 2024",
        "year > 0",
        "year >= 0",
        "year >= 9007199254740992",
        "year = 9007199254740991",
        "year > 9007199254740991",
        "year < -9007199254740991",
        "year in (2023, -1, 9007199254740992)",
        "größe >= 2024",
        "exists(year)",
        "weight = 1.5",
        "weight = 2",
        "weight = 2.0",
        "weight = -0.0",
        "weight in (1.5, 2, 1e300)",
        "weight in ()",
        "public in ()",
        "weight != 1.5",
        "weight > 1.5",
        "weight <= -0.5",
        "weight >= 1e300",
        "public = true",
        "public = false",
        "public != true",
        "public in (true, false)",
        "exists(public)",
        'language = "日本語"',
        'language != "de"',
        'language = ""',
        "exists(language)",
        "not exists(title)",
        'title = "Title 3"',
        'doc_id in ("doc-1", "doc-7")',
        "true",
        "false",
        'kind = "faq" and (year > 0 or not exists(tags)) and not (public = true and weight < 2)',
    ],
)
def test_each_operator_on_each_type(filled: Store, text: str) -> None:
    assert_agrees(filled, parse_filter(text, FIELDS))


def test_the_operators_above_tell_rows_apart() -> None:
    for text in ('kind = "notice"', 'tags = "true"', "year > 9007199254740991", "weight = 2", "public = false"):
        assert 0 < len(passing(parse_filter(text, FIELDS))) < len(ROWS)


@given(where=trees())
@settings(max_examples=300)
def test_any_tree_means_the_same_everywhere(filled: Store, where: Filter) -> None:
    assert_agrees(filled, where)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(10))
def test_ten_thousand_trees_mean_the_same_everywhere(filled: Store, number: int) -> None:
    @seed(number)
    @given(where=trees())
    @settings(max_examples=1000, derandomize=False, database=None)
    def campaign(where: Filter) -> None:
        assert_agrees(filled, where)

    campaign()


@given(where=trees(), number=st.integers(0, 5))
@settings(max_examples=25)
def test_filtered_search_is_the_search_among_the_rows_that_pass(filled: Store, where: Filter, number: int) -> None:
    query = make_query(number)
    expected = passing(where)
    for signal in filled.signals:
        everything = filled.search(signal, query, limit=len(ROWS))
        hits = filled.search(signal, query, where, limit=len(ROWS))
        assert [hit.id for hit in hits] == [hit.id for hit in everything if hit.id in expected]
        scores = filled.score(signal, query, [row.chunk.id for row in ROWS], where)
        assert scores.keys() == expected


def test_the_deepest_allowed_filter_is_answered(filled: Store) -> None:
    deepest = reduce(lambda where, _: Not(where), range(31), Equals("kind", "faq"))  # type: ignore[arg-type,return-value]
    assert_agrees(filled, deepest)
    with pytest.raises(FilterError, match="nested deeper than 32"):
        filled.count(Not(Not(deepest)))


def test_the_deepest_filter_of_and_and_or_is_answered(filled: Store) -> None:
    where: Filter = Equals("kind", "faq")
    for level in range(31):
        # Each part matters on its level, or a store that forgot one would not show.
        joined = And if level % 2 else Or
        where = joined((where, AnyOf("doc_id", (f"doc-{level % 20}", "doc-3")) if level % 2 == 0 else Exists("acl")))
    assert_agrees(filled, where)
    assert_agrees(filled, Not(where.parts[0]))  # type: ignore[union-attr]
    assert 0 < len(passing(where)) < len(ROWS)


def test_both_bounds_of_one_side_hold(filled: Store) -> None:
    for gt, gte in ((0, 2023), (2023, 0), (2023, 2023)):
        assert_agrees(filled, Between("year", gt=gt, gte=gte))
        assert_agrees(filled, Between("weight", lt=gt, lte=gte))
    assert_agrees(filled, Between("year", gt=2023, lt=0))


# Strings that mean something in the query languages of stores, and strings at the limits of their indexes.
ODD = (
    "*", "a*", "?", "[a TO b]", "a AND b", "-a", "a:b", "_exists_:tags", "/.*/", "~", "\\", '"', "' or 1 == 1 or '",
    '"] or tags == ["', "{}", "${x}", "null", "true", " ", "\x00", "\x01sha256:0", "a\nb", "ä", "a\u0308", "A", "a",
    "İ", "x" * 1024, "x" * 1025, "x" * 32_766, "x" * 32_767, "x" * 40_000, "x" * 40_001, "\U0001f600" * 9_000,
)  # fmt: skip


def test_odd_and_long_strings_are_compared_whole(store: Store) -> None:
    rows = [
        with_chunk(row, metadata={"kind": text}, acl=(text,))
        for row, text in zip(make_rows(len(ODD)), ODD, strict=True)
    ]
    assert store.write(rows).failures == ()
    for row, text in zip(rows, ODD, strict=True):
        for where in (Equals("kind", text), AnyOf("kind", (text, "absent")), AnyOf("acl", (text,))):
            assert store.visible(where) == {row.chunk.id}, text[:40]
    assert store.visible(Not(AnyOf("kind", ODD[1:]))) == {rows[0].chunk.id}


def test_the_longest_allowed_list_is_answered(filled: Store) -> None:
    assert_agrees(filled, AnyOf("year", tuple(range(1500, 2500))))
    assert_agrees(filled, AnyOf("weight", tuple(number / 2 for number in range(1000))))
    with pytest.raises(FilterError, match="1001 values"):
        filled.count(AnyOf("year", tuple(range(1001))))


def test_an_identity_sees_its_tenants_rows_that_name_one_of_its_principals(filled: Store) -> None:
    for tenant in TENANTS:
        for principals in (("staff",), ("staff", "board"), ("nobody",), ()):
            identity = Identity(tenant, principals)
            expected = {
                row.chunk.id for row in ROWS if row.chunk.tenant == tenant and set(row.chunk.acl) & set(principals)
            }
            assert bool(expected) == bool(set(principals) - {"nobody"})
            where = identity_filter(identity)
            assert filled.count(where) == len(expected)
            for signal in filled.signals:
                hits = filled.search(signal, make_query(0, tokens=80), where, limit=1000)
                assert {hit.id for hit in hits} <= expected
                scores = filled.score(signal, make_query(0), [row.chunk.id for row in ROWS], where)
                assert scores.keys() == expected
            assert filled.fetch([row.chunk.id for row in ROWS], where).keys() == expected


@given(where=trees())
@settings(max_examples=30)
def test_no_filter_lifts_the_identity(filled: Store, where: Filter) -> None:
    limited = with_identity(where, someone("acme", "staff"))
    visible = {row.chunk.id for row in ROWS if row.chunk.tenant == "acme" and "staff" in row.chunk.acl}
    assert filled.visible(limited) == visible & passing(where)


def test_absent_null_and_empty_list_are_one(store: Store) -> None:
    values: list[Metadata] = [{}, {"tags": ()}, {"tags": ("",)}, {"tags": ("a", "")}]
    rows = [with_chunk(row, metadata=metadata) for row, metadata in zip(make_rows(4), values, strict=True)]
    store.write(rows)

    def found(text: str) -> list[int]:
        hits = store.visible(parse_filter(text, FIELDS))
        return [number for number, row in enumerate(rows) if row.chunk.id in hits]

    assert found("exists(tags)") == [2, 3]
    assert found("not exists(tags)") == [0, 1]
    assert found('tags = ""') == [2, 3]
    assert found('tags != ""') == [0, 1]
    assert found('not tags in ("a")') == [0, 1, 2]
