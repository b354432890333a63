"""Ranges with one bound a side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.filters.bounds import tightest
from connectors.filters.evaluate import matches
from connectors.filters.tree import Between
from tests.conformance.data import make_rows, with_chunk

_BOUND = st.one_of(st.none(), st.integers(-3, 3), st.floats(-3, 3))


@given(where=st.builds(Between, st.just("weight"), _BOUND, _BOUND, _BOUND, _BOUND), value=st.floats(-4, 4))
def test_the_range_is_the_same_with_one_bound_a_side(where: Between, value: float) -> None:
    bounds = tightest(where)
    assert None in (bounds.gt, bounds.gte)
    assert None in (bounds.lt, bounds.lte)
    points = {value, *(bound for bound in (where.gt, where.gte, where.lt, where.lte) if bound is not None)}
    row = make_rows(1)[0]
    for point in points:
        chunk = with_chunk(row, metadata={"weight": point}).chunk
        assert matches(bounds, chunk) == matches(where, chunk)
