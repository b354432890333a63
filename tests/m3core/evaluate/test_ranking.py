from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.evaluate.ranking import recall_at, reciprocal_rank

ids = st.lists(st.sampled_from([f"d{n}" for n in range(12)]), unique=True, max_size=12)
relevant = st.sets(st.sampled_from([f"d{n}" for n in range(12)]), min_size=1, max_size=4)


def test_known_values() -> None:
    ranking = ["a", "b", "c", "d"]
    assert recall_at(ranking, {"a"}, 1) == 1.0
    assert recall_at(ranking, {"b"}, 1) == 0.0
    assert recall_at(ranking, {"b", "d", "x", "y"}, 4) == 0.5
    assert reciprocal_rank(ranking, {"c", "d"}) == pytest.approx(1 / 3)
    assert reciprocal_rank(ranking, {"x"}) == 0.0
    assert reciprocal_rank([], {"x"}) == 0.0


@given(ids, relevant, st.integers(1, 15))
def test_recall_equals_counting_one_by_one(ranking: list[str], wanted: set[str], k: int) -> None:
    found = 0
    for position, doc_id in enumerate(ranking):
        if position < k and doc_id in wanted:
            found += 1
    assert recall_at(ranking, wanted, k) == found / len(wanted)


@given(ids, relevant)
def test_reciprocal_rank_is_the_best_over_single_relevant_ids(ranking: list[str], wanted: set[str]) -> None:
    each = [1 / (ranking.index(doc_id) + 1) for doc_id in wanted if doc_id in ranking]
    assert reciprocal_rank(ranking, wanted) == max(each, default=0.0)
