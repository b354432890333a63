"""Random filters for the conformance suite: every condition on every declared type, and trees of them."""

from __future__ import annotations

from hypothesis import strategies as st

from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, Not, Or
from tests.conformance.data import KINDS, LANGUAGES, PRINCIPALS, TAGS, TENANTS, WEIGHTS, YEARS


def conditions() -> st.SearchStrategy[Filter]:
    """One condition."""

    def equals(name: str, values: tuple[object, ...]) -> st.SearchStrategy[Filter]:
        value = st.sampled_from(values)
        return st.one_of(
            st.builds(Equals, st.just(name), value),
            st.builds(AnyOf, st.just(name), st.lists(value, max_size=3).map(tuple)),
            st.builds(Exists, st.just(name)),
        )

    def between(name: str, values: tuple[float, ...]) -> st.SearchStrategy[Filter]:
        bound = st.one_of(st.none(), st.sampled_from(values))
        return st.builds(Between, st.just(name), bound, bound, bound, bound)

    return st.one_of(
        equals("kind", (*KINDS, "absent")),
        equals("tags", TAGS),
        equals("year", YEARS),
        equals("weight", WEIGHTS),
        equals("public", (True, False)),
        equals("language", LANGUAGES),
        equals("title", ("Title 1", "", "Title 9")),
        equals("doc_id", ("doc-1", "doc-2")),
        equals("tenant", TENANTS),
        equals("acl", PRINCIPALS),
        between("year", YEARS),
        between("weight", WEIGHTS),
        st.just(Everything()),
    )


def trees() -> st.SearchStrategy[Filter]:
    """Trees of up to eight conditions."""

    def grown(parts: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        several = st.lists(parts, max_size=4).map(tuple)
        return st.one_of(st.builds(Not, parts), st.builds(And, several), st.builds(Or, several))

    return st.recursive(conditions(), grown, max_leaves=8)
