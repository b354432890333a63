"""Whatever a caller sends, a store shows it its own tenant's rows only, of those only what it may read, and counts no
others."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from connectors.filters.evaluate import matches
from connectors.filters.identity import with_identity
from connectors.filters.tree import Filter
from m3core.errors import FilterError
from m3core.types import Identity, Row
from tests.conformance.data import PRINCIPALS, TENANTS, make_query, make_rows, with_chunk
from tests.conformance.store import Store, quick_folder
from tests.conformance.trees import trees

# Tenants whose names begin alike, or mean something to a query language.
_ALIKE = (*TENANTS, "acme2", "ACME", "acme*", "", 'acme" or "" == "')


def _rows() -> list[Row]:
    random = Random(3)
    return [with_chunk(row, tenant=random.choice(_ALIKE)) for row in make_rows(90, seed=3)]


ROWS = _rows()
IDS = [row.chunk.id for row in ROWS]


@pytest.fixture(scope="module")
def filled(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with quick_folder(tmp_path_factory.mktemp("filled")) as folder:
        store = Store.of(kind, folder)
        store.write(ROWS[:60])
        store.write(ROWS[60:])
        yield store
        store.close()


identities = st.builds(
    Identity,
    st.sampled_from((*_ALIKE, "nobody")),
    st.lists(st.sampled_from((*PRINCIPALS, "*", "nobody")), max_size=3, unique=True).map(tuple),
)


def check(store: Store, identity: Identity, where: Filter, number: int) -> None:
    """Every way to ask, with ids of everybody's rows, under a caller's identity."""
    try:
        limited = with_identity(where, identity)
    except FilterError:
        return  # refused before any store is asked
    visible = {
        row.chunk.id
        for row in ROWS
        if row.chunk.tenant == identity.tenant and set(row.chunk.acl) & set(identity.principals)
    }
    expected = {row.chunk.id for row in ROWS if row.chunk.id in visible and matches(where, row.chunk)}
    query = make_query(number)
    assert store.count(limited) == len(expected)
    assert store.fetch(IDS, limited).keys() == expected
    signal = store.signals[number % len(store.signals)]
    assert {hit.id for hit in store.search(signal, query, limited, limit=1000)} <= expected
    assert store.score(signal, query, IDS, limited).keys() == expected


@given(identity=identities, where=trees(), number=st.integers(0, 8))
@settings(max_examples=75)  # of four requests each
def test_three_hundred_requests_show_nobody_elses_rows(
    filled: Store, identity: Identity, where: Filter, number: int
) -> None:
    check(filled, identity, where, number)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_requests_show_nobody_elses_rows(filled: Store, part: int) -> None:
    @seed(part)
    @given(identity=identities, where=trees(), number=st.integers(0, 8))
    @settings(max_examples=250, derandomize=False, database=None)
    def campaign(identity: Identity, where: Filter, number: int) -> None:
        check(filled, identity, where, number)

    campaign()


def test_the_rows_tell_callers_apart() -> None:
    shown = [sum(row.chunk.tenant == tenant and "staff" in row.chunk.acl for row in ROWS) for tenant in _ALIKE]
    assert all(0 < count < len(ROWS) // 4 for count in shown)
