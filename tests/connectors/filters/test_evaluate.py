"""What filters mean on one row, and the canonical text of trees that no text gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.filters.canonical import format_filter
from connectors.filters.evaluate import matches
from connectors.filters.grammar import parse_filter
from connectors.filters.identity import identity_filter, is_visible, with_identity
from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, Not, Or
from connectors.protocol import FieldType
from m3core.types import Chunk, Identity, Metadata

FIELDS = {"kind": FieldType.STRING, "tags": FieldType.STRINGS, "year": FieldType.INTEGER, "public": FieldType.BOOLEAN}


def chunk(metadata: Metadata | None = None, **own: object) -> Chunk:
    values = {"id": "1", "tenant": "acme", "doc_id": "d", "ordinal": 0, "text": "", "context": "", "span": (0, 0)}
    return Chunk(**{**values, "token_count": 0, **own}, metadata=metadata or {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "metadata", "expected"),
    [
        (Everything(), {}, True),
        (And(()), {}, True),
        (Or(()), {}, False),
        (Equals("year", 1), {"year": 1}, True),
        (Equals("year", 1), {"year": True}, False),
        (Equals("public", True), {"public": 1}, False),
        (Equals("year", 1), {}, False),
        (Not(Equals("year", 1)), {}, True),
        (Not(Equals("year", 1)), {"year": 2}, True),
        (Equals("tags", "a"), {"tags": ("b", "a")}, True),
        (Not(Equals("tags", "a")), {"tags": ("b", "a")}, False),
        (Not(Equals("tags", "a")), {"tags": ()}, True),
        (AnyOf("tags", ("x", "b")), {"tags": ("b", "a")}, True),
        (AnyOf("tags", ()), {"tags": ("b",)}, False),
        (Exists("tags"), {"tags": ()}, False),
        (Exists("tags"), {"tags": ("",)}, True),
        (Exists("kind"), {"kind": ""}, True),
        (Between("year", gte=1, lt=3), {"year": 1}, True),
        (Between("year", gte=1, lt=3), {"year": 3}, False),
        (Between("year", gt=1), {"year": 1}, False),
        (Between("year", lte=1), {"year": 1}, True),
        (Between("year", gt=1), {}, False),
        (Not(Between("year", gt=1)), {}, True),
        (Between("year"), {"year": 0}, True),
        (Between("year"), {}, False),
    ],
)
def test_conditions_are_two_valued(where: Filter, metadata: Metadata, expected: bool) -> None:
    assert matches(where, chunk(metadata)) is expected


def test_an_empty_title_or_language_is_absent() -> None:
    assert not matches(Exists("title"), chunk())
    assert not matches(Equals("language", ""), chunk())
    assert matches(Equals("title", "x"), chunk(title="x"))
    assert matches(Equals("doc_id", "d"), chunk())


def test_an_identity_needs_its_tenant_and_one_of_the_principals() -> None:
    row = chunk(acl=("staff", "board"))
    assert matches(identity_filter(Identity("acme", ("board", "x"))), row)
    assert not matches(identity_filter(Identity("globex", ("board",))), row)
    assert not matches(identity_filter(Identity("acme", ("x",))), row)
    assert not matches(identity_filter(Identity("acme", ())), row)
    assert not matches(identity_filter(Identity("acme", ("board",))), chunk(acl=()))


_NAMES = st.lists(st.sampled_from(["staff", "board", "", "Staff"]), max_size=3).map(tuple)


@given(st.sampled_from(["acme", "globex"]), _NAMES, _NAMES)
def test_a_row_is_visible_where_the_filter_of_the_identity_holds(
    tenant: str, principals: tuple[str, ...], acl: tuple[str, ...]
) -> None:
    row, identity = chunk(acl=acl), Identity(tenant, principals)
    assert is_visible(row, identity) is matches(identity_filter(identity), row)


def test_an_identity_is_added_to_every_filter() -> None:
    identity = Identity("acme", ("b", "a", "b"))
    assert identity_filter(identity) == And((Equals("tenant", "acme"), AnyOf("acl", ("a", "b"))))
    assert with_identity(Everything(), identity) == identity_filter(identity)
    where = Or((Equals("year", 1), Everything()))
    assert with_identity(where, identity) == And((where, identity_filter(identity)))


def _trees() -> st.SearchStrategy[Filter]:
    year = st.one_of(st.none(), st.integers(0, 3))
    leaves: st.SearchStrategy[Filter] = st.one_of(
        st.builds(Between, st.just("year"), year, year, year, year),
        st.builds(Equals, st.just("year"), st.integers(0, 3)),
        st.builds(Exists, st.just("tags")),
    )

    def grown(parts: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        several = st.lists(parts, max_size=3).map(tuple)
        return st.one_of(st.builds(Not, parts), st.builds(And, several), st.builds(Or, several))

    return st.recursive(leaves, grown, max_leaves=8)


@given(_trees(), st.one_of(st.none(), st.integers(0, 3)), st.booleans())
def test_the_canonical_text_means_the_same_for_trees_made_by_programs(
    where: Filter, year: int | None, tags: bool
) -> None:
    metadata: dict[str, int | tuple[str, ...]] = {} if year is None else {"year": year}
    row = chunk({**metadata, "tags": ("a",) if tags else ()})
    assert matches(parse_filter(format_filter(where), FIELDS), row) == matches(where, row)
