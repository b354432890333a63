"""Weighted sum and reciprocal ranks against their definitions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import UsageError
from m3core.fusion import BUILT_IN_PRESETS, Weights, reciprocal_rank_fusion, weighted_sum, weighted_sums
from m3core.types import Signal

_WEIGHT = st.floats(0.001, 10)
_SCORE = st.floats(-1, 1)


@given(_WEIGHT, _WEIGHT, _WEIGHT, _SCORE, _SCORE, _SCORE)
def test_weighted_sum_is_the_published_combination(
    w0: float, w1: float, w2: float, d: float, s: float, c: float
) -> None:
    raw = {Signal.DENSE: d, Signal.LEXICAL: s, Signal.MULTI: c}
    weights = {Signal.DENSE: w0, Signal.LEXICAL: w1, Signal.MULTI: w2}
    assert weighted_sum(raw, weights) == pytest.approx((w0 * d + w1 * s + w2 * c) / (w0 + w1 + w2), abs=1e-9)
    normalised = Weights(w0, w1, w2).normalised()
    assert sum(normalised.values()) == pytest.approx(1.0)
    assert weighted_sum(raw, normalised) == pytest.approx(weighted_sum(raw, weights), abs=1e-9)


def test_golden_combination_of_the_model_card() -> None:
    # The card's first cell with .4/.2/.4: dense .6260, sparse .1956, multi .7796 give .6014.
    weights = BUILT_IN_PRESETS["balanced"].normalised()
    raw = {Signal.DENSE: 0.6260, Signal.LEXICAL: 0.1956, Signal.MULTI: 0.7796}
    assert weighted_sum(raw, weights) == pytest.approx(0.6014, abs=1e-4)


def test_a_dropped_signal_gives_its_share_to_the_rest() -> None:
    kept = Weights(0.4, 0.2, 0.4).normalised([Signal.DENSE, Signal.LEXICAL])
    assert kept == pytest.approx({Signal.DENSE: 2 / 3, Signal.LEXICAL: 1 / 3})


def test_a_signal_without_a_score_counts_zero() -> None:
    assert weighted_sum({Signal.DENSE: 0.5}, {Signal.DENSE: 0.5, Signal.MULTI: 0.5}) == pytest.approx(0.25)


@given(st.dictionaries(st.sampled_from(list(Signal)), st.dictionaries(st.sampled_from("abcd"), _SCORE)), st.data())
def test_many_weighted_sums_are_one_each(raw: dict[Signal, dict[str, float]], data: st.DataObject) -> None:
    weights = {signal: data.draw(_WEIGHT) for signal in Signal}
    expected = {
        item: weighted_sum({signal: scores[item] for signal, scores in raw.items() if item in scores}, weights)
        for item in "abc"
    }
    assert weighted_sums(raw, weights, "abc") == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True), max_size=4))
def test_reciprocal_rank_fusion_counts_ranks_from_one(rankings: list[list[str]]) -> None:
    expected: dict[str, Fraction] = {}
    for ranking in rankings:
        for item in ranking:
            expected[item] = expected.get(item, Fraction(0)) + Fraction(1, 60 + ranking.index(item) + 1)
    assert reciprocal_rank_fusion(rankings) == pytest.approx({item: float(value) for item, value in expected.items()})


@pytest.mark.parametrize("values", [(-0.1, 1, 1), (0, 0, 0), (float("nan"), 1, 1), (float("inf"), 1, 1)])
def test_impossible_weights_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="each must be 0 or more and one above 0"):
        Weights(*values)


def test_weights_of_only_unasked_signals_are_refused() -> None:
    with pytest.raises(UsageError, match="the signals lexical all have weight 0"):
        BUILT_IN_PRESETS["dense-only"].normalised([Signal.LEXICAL])
