"""Packing against its own promises, and against brute force where that is possible."""

from __future__ import annotations

from itertools import accumulate, combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.packing import SPAN, content_weights, divide, pack_evenly

BUDGET = 10
atom_tokens = st.lists(st.integers(0, BUDGET), min_size=1, max_size=9)


def sizes(tokens: list[int], ranges: list[tuple[int, int]]) -> list[int]:
    return [sum(tokens[first:last]) for first, last in ranges]


@given(atom_tokens)
def test_packing_is_the_best_there_is(tokens: list[int]) -> None:
    cumulative = [0, *accumulate(tokens)]
    ranges = pack_evenly(cumulative, 0, len(tokens), BUDGET)
    assert [atom for first, last in ranges for atom in range(first, last)] == list(range(len(tokens)))
    for count in range(1, len(tokens) + 1):
        cuts = combinations(range(1, len(tokens)), count - 1)
        largest = min(max(sizes(tokens, list(pairwise((0, *inner, len(tokens)))))) for inner in cuts)
        if largest <= BUDGET:
            assert len(ranges) == count
            assert max(sizes(tokens, ranges)) == largest
            return


def test_packing_starts_where_it_is_told() -> None:
    assert pack_evenly([0, 4, 8, 12, 16, 20], 2, 5, 10) == [(2, 4), (4, 5)]


@given(st.lists(st.integers(1, BUDGET), min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_division_covers_all_and_respects_the_span(tokens: list[int], chance: object) -> None:
    kinds = [0] * len(tokens)
    digests = [getattr(chance, "getrandbits")(64) for _ in tokens]  # noqa: B009 - hypothesis types it as Random
    cumulative = [0, *accumulate(tokens)]
    parts = divide(cumulative, content_weights(kinds, digests), BUDGET)
    assert [atom for first, last in parts for atom in range(first, last)] == list(range(len(tokens)))
    assert all(total <= SPAN * BUDGET for total in sizes(tokens, parts))
    # Half a budget is left at each end, as far as there is an atom that begins there.
    assert len(parts) <= max(1, 2 * sum(tokens) // BUDGET)


def test_coarser_boundaries_come_first() -> None:
    tokens = [BUDGET] * 12
    kinds = [0, *[1] * 5, 0, *[1] * 5]
    weights = content_weights(kinds, list(range(12)))
    parts = divide([0, *accumulate(tokens)], weights, BUDGET)
    assert 6 in {first for first, _ in parts}
    assert int(np.argmax(weights[1:])) + 1 == 6


def test_equal_content_is_divided_in_the_middle() -> None:
    parts = divide(list(range(0, 1290, 10)), content_weights([0] * 128, [7] * 128), BUDGET)
    assert [last - first for first, last in parts] == [SPAN] * (128 // SPAN)


def test_hostile_order_of_weights_does_not_peel_atoms_off() -> None:
    chance = np.random.default_rng(0)
    digests = [int(value) for value in chance.integers(0, 1 << 63, 20_000)]
    weights = np.sort(content_weights([0] * 20_000, digests))
    parts = divide(list(range(20_001)), weights, BUDGET)
    assert min(last - first for first, last in parts) >= BUDGET // 2
