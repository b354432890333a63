"""Fusion weights that suit a model: the best of a coarse grid on evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3core.evaluate.beir import ScoredSet, mean_ndcg
from m3core.fusion import Weights

_STEPS = 20


def best_weights(sets: Sequence[ScoredSet]) -> Weights:
    """The weights, in twentieths that sum to 1, with the highest mean nDCG@10 over the sets.

    Neighbours on the grid are averaged, so that the choice is the middle of a good region, not one lucky point.
    """
    grid = [(dense, lexical) for dense in range(_STEPS + 1) for lexical in range(_STEPS + 1 - dense)]
    figures = {place: _mean(sets, _weights(*place)) for place in grid}

    def around(place: tuple[int, int]) -> float:
        near = [(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return float(np.mean([figures[other] for other in near if other in figures]))

    return _weights(*max(grid, key=around))


def _weights(dense: int, lexical: int) -> Weights:
    values = (dense / _STEPS, lexical / _STEPS, (_STEPS - dense - lexical) / _STEPS)
    return Weights(*(round(value, 2) for value in values))


def _mean(sets: Sequence[ScoredSet], weights: Weights) -> float:
    return float(np.mean([mean_ndcg(part.fused(weights), part.relevant) for part in sets]))
