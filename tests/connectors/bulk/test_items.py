"""Cutting items into requests."""

from __future__ import annotations

from itertools import zip_longest

from hypothesis import given
from hypothesis import strategies as st

from connectors.bulk.items import Budget, Item, cut


@given(
    sizes=st.lists(st.integers(0, 40), max_size=30),
    budget=st.builds(Budget, bytes=st.integers(1, 60), rows=st.integers(1, 7)),
)
def test_parts_keep_the_order_and_the_budget_and_are_not_cut_too_early(sizes: list[int], budget: Budget) -> None:
    items = [Item(str(place), b"x" * size) for place, size in enumerate(sizes)]
    parts = list(cut(items, budget))
    assert [item for part in parts for item in part] == items
    for part, following in zip_longest(parts, parts[1:]):
        size = sum(len(item.body) for item in part)
        assert len(part) == 1 or (size <= budget.bytes and len(part) <= budget.rows)
        if following is not None:
            assert len(part) == budget.rows or size + len(following[0].body) > budget.bytes


def test_half_a_budget_still_holds_a_row() -> None:
    assert Budget(9, 4).halved() == Budget(4, 2)
    assert Budget(1, 1).halved() == Budget(1, 1)
