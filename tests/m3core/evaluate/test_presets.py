from __future__ import annotations

import numpy as np
import pytest

from m3core.evaluate.beir import ScoredSet
from m3core.evaluate.presets import best_weights
from m3core.types import Signal


def test_the_signal_that_finds_the_answers_gets_the_weight() -> None:
    rng = np.random.default_rng(0)
    noise = {signal: rng.random((40, 30)).astype(np.float32) for signal in Signal}
    for row in range(40):
        noise[Signal.MULTI][row, row % 30] = 1.2
    weights = best_weights([ScoredSet(noise, [{row % 30} for row in range(40)])])
    assert weights.multi > 0.7
    assert weights.dense + weights.lexical + weights.multi == pytest.approx(1.0)
