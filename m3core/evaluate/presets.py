"""Fusion weights that suit a model: the best of a coarse grid on evaluation sets, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from m3core.evaluate.beir import ScoredSet
from m3core.evaluate.resampling import Difference, compare
from m3core.fusion import Weights
from m3core.types import Float64Array, Int64Array

_STEPS = 20
FOLDS = 5
# Every signal keeps a step: an answer without one of the stores is ranked by what is left.
_GRID = tuple((dense, lexical) for dense in range(1, _STEPS - 1) for lexical in range(1, _STEPS - dense))


@dataclass(frozen=True)
class Mined:
    """Weights chosen on all queries, and what such a choice is worth on queries that it did not see.

    `held_out` is the mean nDCG@10 where each fold is ranked by the weights of the others, `preset` that of the preset
    on the same queries, `gain` their difference. Each is a mean over sets that weighs each set alike.
    """

    weights: Weights
    held_out: float
    preset: float
    gain: Difference
    folds: tuple[Weights, ...]


def best_weights(sets: Sequence[ScoredSet]) -> Weights:
    """The weights, in twentieths that sum to 1 and none of them 0, with the highest mean nDCG@10 over the sets.

    Neighbours on the grid are averaged, so that the choice is the middle of a good region, not one lucky point.
    """
    return _best([_table(part).mean(axis=1) for part in sets])


def mine_weights(sets: Sequence[ScoredSet], preset: Weights, seed: int, folds: int = FOLDS) -> Mined:
    """Choose weights as `best_weights` does, and judge the choice by cross-validation over the queries of each set.

    One of the sets needs two queries or more: what is judged is not chosen by.
    """
    tables = [_table(part) for part in sets]
    shares = [list(_folds(table.shape[1], folds, seed)) for table in tables]
    held_out = [np.zeros(table.shape[1]) for table in tables]
    chosen = []
    for fold in range(folds):
        seen = [np.delete(table, share[fold], axis=1) for table, share in zip(tables, shares, strict=True)]
        # A set of one query has nothing left to choose by.
        weights = _best([table.mean(axis=1) for table in seen if table.shape[1]])
        chosen.append(weights)
        for table, share, values in zip(tables, shares, held_out, strict=True):
            values[share[fold]] = table[_GRID.index(_place(weights)), share[fold]]
    given = [part.rows(preset.normalised()) for part in sets]
    before, after = _weighed(given), _weighed(held_out)
    return Mined(
        weights=_best([table.mean(axis=1) for table in tables]),
        held_out=float(after.mean()),
        preset=float(before.mean()),
        gain=compare(before[:, None], after[:, None], seed)[0],
        folds=tuple(chosen),
    )


def _weighed(values: Sequence[Float64Array]) -> Float64Array:
    """The figures of all sets' queries, scaled so that their mean is the mean of the sets' means."""
    total = sum(map(len, values))
    return np.concatenate([part * (total / (len(values) * len(part))) for part in values])


def _table(part: ScoredSet) -> Float64Array:
    """nDCG@10 of each point of the grid for each query: `[G, Q]`."""
    return np.stack([part.rows(_weights(*place).normalised()) for place in _GRID])


def _best(means: Sequence[Float64Array]) -> Weights:
    """The middle of the best region, from the means `[G]` of each set."""
    figures = dict(zip(_GRID, np.mean(means, axis=0).tolist(), strict=True))

    def around(place: tuple[int, int]) -> float:
        near = [(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return float(np.mean([figures[other] for other in near if other in figures]))

    return _weights(*max(_GRID, key=around))


def _weights(dense: int, lexical: int) -> Weights:
    values = (dense / _STEPS, lexical / _STEPS, (_STEPS - dense - lexical) / _STEPS)
    return Weights(*(round(value, 2) for value in values))


def _place(weights: Weights) -> tuple[int, int]:
    return round(weights.dense * _STEPS), round(weights.lexical * _STEPS)


def _folds(queries: int, folds: int, seed: int) -> Iterator[Int64Array]:
    """Numbers of the queries of each fold, at random and of equal size up to one."""
    order = np.random.default_rng(seed).permutation(queries)
    yield from (order[fold::folds] for fold in range(folds))
