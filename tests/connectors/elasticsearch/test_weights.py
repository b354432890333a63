"""Lexical weights: rounding to nine bits, packing, and the cap on a query's tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.elasticsearch.weights import ROUNDING_ERROR, heaviest, packed, rounded, token_weights, unpacked
from m3core.errors import StoreError

_POSITIVE = st.floats(np.float32(1e-37).item(), np.float32(1e30).item(), width=32)


@given(weights=st.lists(_POSITIVE, min_size=1, max_size=50))
def test_rounding_goes_to_the_nearest_number_of_nine_bits(weights: list[float]) -> None:
    exact = np.array(weights, np.float32)
    near = rounded(exact)
    assert ((near.view(np.uint32) & 0x7FFF) == 0).all()
    step = (exact.view(np.uint32) & ~np.uint32(0x7FFF)).view(np.float32)
    above = ((exact.view(np.uint32) & ~np.uint32(0x7FFF)) + np.uint32(0x8000)).view(np.float32)
    distance = np.abs(near.astype(np.float64) - exact)
    assert (distance <= np.abs(step.astype(np.float64) - exact)).all()
    assert (distance <= np.abs(above.astype(np.float64) - exact)).all()
    assert (distance <= ROUNDING_ERROR * exact.astype(np.float64)).all()


def test_rounding_has_no_bias_where_cutting_off_has() -> None:
    weights = np.random.default_rng(0).random(100_000, np.float32) + np.float32(0.01)
    cut = (weights.view(np.uint32) & ~np.uint32(0x7FFF)).view(np.float32)
    error = (rounded(weights).astype(np.float64) - weights) / weights
    assert abs(error.mean()) < 2e-5
    assert np.abs(error).mean() < 7e-4
    assert ((cut.astype(np.float64) - weights) / weights).mean() < -1.2e-3


def test_weights_that_lucene_refuses_are_kept_at_its_limits() -> None:
    extreme = np.array([1e-45, np.finfo(np.float32).max], np.float32)
    near = rounded(extreme)
    assert near[0] == np.finfo(np.float32).tiny
    assert np.isfinite(near[1])


@given(pairs=st.dictionaries(st.integers(0, 2**32 - 1), _POSITIVE, max_size=40))
def test_exact_weights_come_back_bit_by_bit(pairs: dict[int, float]) -> None:
    ids, weights = np.array(list(pairs), np.uint32), np.array(list(pairs.values()), np.float32)
    back_ids, back_weights = unpacked(packed(ids, weights))
    assert back_ids.tolist() == ids.tolist()
    assert back_weights.tobytes() == weights.tobytes()


@pytest.mark.parametrize("text", ["%", "AAAA", "ä", "AAAAAAAAAA"])
def test_damaged_weights_are_an_error(text: str) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        unpacked(text)


@given(pairs=st.dictionaries(st.integers(0, 999), st.floats(0, 100, width=32), max_size=30), most=st.integers(1, 30))
def test_the_heaviest_tokens_bring_candidates(pairs: dict[int, float], most: int) -> None:
    ids = np.array(sorted(pairs), np.uint32)
    weights = np.array([pairs[int(token)] for token in ids], np.float32)
    chosen, scaled = heaviest(ids, weights, most)
    positive = sorted((-np.float32(weight), token) for token, weight in pairs.items() if weight > 0)
    assert chosen.tolist() == [token for _, token in positive[:most]]
    assert (scaled > 0).all()
    assert (scaled <= 1).all()
    assert (np.diff(scaled) <= 0).all()


def test_tokens_are_named_by_their_decimal_ids() -> None:
    assert token_weights(np.array([7, 2**32 - 1], np.uint32), np.array([0.5, 1], np.float32)) == {
        "7": 0.5,
        "4294967295": 1.0,
    }
