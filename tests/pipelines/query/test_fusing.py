"""Fusion as algebra: contributions, ranks, renormalisation, dropping."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from m3core.fusion import Weights
from m3core.types import Signal
from pipelines.query.answer import Origin
from pipelines.query.fusing import Candidates, fused_order, signal_scores

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
