"""Fusion as algebra: contributions, ranks, renormalisation, dropping."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from m3core.fusion import Weights, reciprocal_rank_fusion
from m3core.types import Signal
from pipelines.query.answer import Origin
from pipelines.query.fusing import Candidates, fused_order, signal_scores
from pipelines.query.request import Fusion

SCORES = st.dictionaries(st.sampled_from("abcdefghij"), st.floats(-1, 1, allow_subnormal=False), max_size=8)
WEIGHTS = st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(0.1, 5)).map(lambda each: Weights(*each))


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    retrieved = {Signal.DENSE: draw(SCORES), Signal.LEXICAL: draw(SCORES)}
    return Candidates(retrieved, {signal: draw(SCORES) for signal in Signal})


@given(candidates(), WEIGHTS)
def test_contributions_add_up_and_the_order_is_by_score_then_id(found: Candidates, weights: Weights) -> None:
    shares = weights.normalised()
    order = fused_order(found, shares)
    assert {each for each, _ in order} == found.ids
    assert order == sorted(order, key=lambda pair: (-pair[1], pair[0]))
    signals = signal_scores(found, shares, found.ids)
    for each, score in order:
        assert math.isclose(sum(part.contribution for part in signals[each].values()), score, abs_tol=1e-12)


@given(candidates(), WEIGHTS)
def test_origin_raw_and_rank(found: Candidates, weights: Weights) -> None:
    signals = signal_scores(found, weights.normalised(), found.ids)
    for signal in Signal:
        known = {each: part for each, scores in signals.items() if (part := scores[signal]).raw is not None}
        by_rank = sorted(known, key=lambda each: known[each].rank or 0)
        raws = [known[each].raw or 0.0 for each in by_rank]
        assert raws == sorted(raws, reverse=True)
        for each in found.ids:
            part = signals[each][signal]
            if each in found.retrieved.get(signal, {}):
                assert (part.origin, part.raw) == (Origin.RETRIEVED, found.retrieved[signal][each])
            elif each in found.completed[signal]:
                assert (part.origin, part.raw) == (Origin.COMPLETED, found.completed[signal][each])
            else:
                assert (part.origin, part.raw, part.rank, part.contribution) == (Origin.MISSING, None, None, 0.0)


@given(WEIGHTS, st.sets(st.sampled_from(list(Signal)), min_size=1))
def test_what_is_dropped_gives_its_share_to_the_rest(weights: Weights, kept: set[Signal]) -> None:
    if not any(weights.of(signal) for signal in kept):
        return
    shares = weights.normalised(kept)
    assert set(shares) == kept
    assert math.isclose(sum(shares.values()), 1, abs_tol=1e-12)
    for signal in kept:
        for other in kept:
            assert math.isclose(shares[signal] * weights.of(other), shares[other] * weights.of(signal), abs_tol=1e-12)


@given(candidates(), st.sampled_from([Signal.DENSE, Signal.LEXICAL]))
def test_without_a_signal_is_as_if_it_had_not_been_asked(found: Candidates, dropped: Signal) -> None:
    left = found.without({dropped})
    (kept,) = {Signal.DENSE, Signal.LEXICAL} - {dropped}
    assert left.ids == frozenset(found.retrieved[kept])
    assert dropped not in left.retrieved
    assert dropped not in left.completed
    assert all(each in left.ids for scores in left.completed.values() for each in scores)


def test_missing_lists_ids_without_a_score_ascending() -> None:
    found = Candidates({Signal.DENSE: {"b": 1.0, "a": 0.5}, Signal.LEXICAL: {"c": 0.2}}, {Signal.LEXICAL: {"a": 0.1}})
    assert found.missing(Signal.DENSE) == ["c"]
    assert found.missing(Signal.LEXICAL) == ["b"]
    assert found.missing(Signal.MULTI) == ["a", "b", "c"]


@given(candidates(), WEIGHTS)
def test_reciprocal_ranks_by_the_formula_and_contributions_add_up(found: Candidates, weights: Weights) -> None:
    shares = weights.normalised()
    signals = signal_scores(found, shares, found.ids, Fusion.RECIPROCAL_RANK)
    order = fused_order(found, shares, Fusion.RECIPROCAL_RANK)
    assert order == sorted(order, key=lambda pair: (-pair[1], pair[0]))
    for each, score in order:
        assert math.isclose(sum(part.contribution for part in signals[each].values()), score, abs_tol=1e-12)
        for signal, part in signals[each].items():
            above = [raw for raw in found.raw(signal).values() if part.raw is not None and raw > part.raw]
            counts = part.raw is not None and (signal is not Signal.LEXICAL or part.raw > 0)
            assert (part.contribution > 0) is (counts and shares[signal] > 0)
            # Ranks from 1; ties are broken by id, so that the rank is at least one more than how many are better.
            assert part.contribution <= shares[signal] / (60 + 1 + len(above)) + 1e-15


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1), min_size=2, max_size=2))
def test_equal_weights_order_as_plain_reciprocal_rank_fusion(rankings: list[list[str]]) -> None:
    scores = [{each: 1.0 - 0.01 * place for place, each in enumerate(ranking)} for ranking in rankings]
    found = Candidates({Signal.DENSE: scores[0], Signal.LEXICAL: scores[1]})
    shares = Weights(1, 1, 0).normalised((Signal.DENSE, Signal.LEXICAL))
    oracle = reciprocal_rank_fusion(rankings)
    for each, score in fused_order(found, shares, Fusion.RECIPROCAL_RANK):
        assert math.isclose(2 * score, oracle[each], abs_tol=1e-12)
