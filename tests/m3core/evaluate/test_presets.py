from __future__ import annotations

import numpy as np
import pytest

from m3core.evaluate.beir import ScoredSet
from m3core.evaluate.presets import best_weights, mine_weights
from m3core.fusion import Weights
from m3core.types import Signal


def test_the_signal_that_finds_the_answers_gets_the_weight() -> None:
    rng = np.random.default_rng(0)
    noise = {signal: rng.random((40, 30)).astype(np.float32) for signal in Signal}
    for row in range(40):
        noise[Signal.MULTI][row, row % 30] = 1.2
    weights = best_weights([ScoredSet(noise, [{row % 30: 1} for row in range(40)])])
    assert weights.multi > 0.7
    assert weights.dense + weights.lexical + weights.multi == pytest.approx(1.0)


def _useful(rng: np.random.Generator, queries: int = 60, documents: int = 25) -> ScoredSet:
    """Dense finds the answer half of the time, multi mostly; lexical is noise."""
    signals = {signal: rng.random((queries, documents)).astype(np.float32) for signal in Signal}
    for row in range(queries):
        signals[Signal.DENSE][row, row % documents] += 0.3
        signals[Signal.MULTI][row, row % documents] += 0.5
    return ScoredSet(signals, [{row % documents: 1} for row in range(queries)])


def test_folds_are_ranked_by_weights_that_did_not_see_them() -> None:
    part = _useful(np.random.default_rng(4))
    mined = mine_weights([part], Weights(0.4, 0.2, 0.4), seed=2, folds=3)
    order = np.random.default_rng(2).permutation(60)
    held_out = np.zeros(60)
    for fold, weights in enumerate(mined.folds):
        mine = order[fold::3]
        seen = np.setdiff1d(np.arange(60), mine)
        rest = ScoredSet({s: m[seen] for s, m in part.signals.items()}, [{int(row) % 25: 1} for row in seen])
        assert weights == best_weights([rest])
        held_out[mine] = part.rows(weights.normalised())[mine]
    assert mined.held_out == pytest.approx(held_out.mean())
    assert mined.preset == pytest.approx(part.rows(Weights(0.4, 0.2, 0.4).normalised()).mean())
    assert mined.gain.mean == pytest.approx(mined.held_out - mined.preset)


def test_a_preset_that_leans_on_noise_is_beaten_and_a_good_one_is_not() -> None:
    part = _useful(np.random.default_rng(0), queries=150)
    bad = mine_weights([part], Weights(0.0, 1.0, 0.0), seed=0)
    assert bad.gain.beyond_noise
    assert bad.gain.mean > 0.2
    good = mine_weights([part], bad.weights, seed=0)
    assert not (good.gain.beyond_noise and good.gain.mean > 0)


def test_a_set_of_one_query_takes_part_without_being_its_own_judge() -> None:
    one, many = _useful(np.random.default_rng(1), queries=1), _useful(np.random.default_rng(2))
    mined = mine_weights([one, many], Weights(1, 0, 0), seed=0)
    assert 0 <= mined.held_out <= 1


def test_sets_of_unlike_size_count_alike_in_every_figure() -> None:
    """Where the small sets gain and the large one loses, the sentence says what the means say."""
    rng = np.random.default_rng(3)
    large, *small = (_useful(rng, queries) for queries in (300, 20, 20))
    swapped = {Signal.DENSE: Signal.MULTI, Signal.MULTI: Signal.DENSE, Signal.LEXICAL: Signal.LEXICAL}
    turned = ScoredSet({signal: large.signals[other] for signal, other in swapped.items()}, large.gains)
    mined = mine_weights([turned, *small], Weights(1, 0, 0), seed=0)
    sets = [part.rows({Signal.DENSE: 1.0}).mean() for part in (turned, *small)]
    assert mined.preset == pytest.approx(np.mean(sets))
    assert mined.gain.mean == pytest.approx(mined.held_out - mined.preset)


def test_a_document_without_a_word_of_the_query_is_no_lexical_hit() -> None:
    signals = {signal: np.zeros((1, 3), dtype=np.float32) for signal in Signal}
    signals[Signal.DENSE][0] = [0.3, 0.2, 0.1]
    part = ScoredSet(signals, [{0: 2, 1: 1}])
    assert part.ndcg(Weights(1, 0, 0)) == {"dense": 1.0, "lexical": 0.0, "multi": 1.0, "fused": 1.0}
    assert part.rows({Signal.LEXICAL: 1.0}).tolist() == [0.0]
