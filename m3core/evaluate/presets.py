"""Fusion weights that suit a model: the best of a coarse grid on evaluation sets, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m3core.evaluate.beir import ScoredSet, ndcg_rows
from m3core.evaluate.resampling import Difference, compare
from m3core.evaluate.search import mixed
from m3core.fusion import Weights
from m3core.types import Float32Array, Float64Array, Int64Array, Signal

_STEPS = 20
FOLDS = 5
_GRID = tuple((dense, lexical) for dense in range(_STEPS + 1) for lexical in range(_STEPS + 1 - dense))


@dataclass(frozen=True)
class GainedSet:
    """Scores `[Q, N]` of each signal on one set, and for each query the judgement of each relevant document's index."""

    signals: Mapping[Signal, Float32Array]
    gains: Sequence[Mapping[int, int]]

    def ndcg(self, weights: Weights) -> Float64Array:
        """nDCG@10 of the weighted sum for each query: `[Q]`."""
        return ndcg_rows(mixed(self.signals, weights.normalised()), self.gains)


@dataclass(frozen=True)
class Mined:
    """Weights chosen on all queries, and what such a choice is worth on queries that it did not see.

    `held_out` is the mean nDCG@10 where each fold is ranked by the weights of the others, `preset` that of the preset
    on the same queries. A mean over sets weighs each set alike.
    """

    weights: Weights
    held_out: float
    preset: float
    gain: Difference
    folds: tuple[Weights, ...]


def best_weights(sets: Sequence[ScoredSet]) -> Weights:
    """The weights, in twentieths that sum to 1, with the highest mean nDCG@10 over the sets.

    Neighbours on the grid are averaged, so that the choice is the middle of a good region, not one lucky point.
    """
    gained = [GainedSet(part.signals, [dict.fromkeys(wanted, 1) for wanted in part.relevant]) for part in sets]
    return _best([_table(part).mean(axis=1) for part in gained])


def mine_weights(sets: Sequence[GainedSet], preset: Weights, seed: int, folds: int = FOLDS) -> Mined:
    """Choose weights as `best_weights` does, and judge the choice by cross-validation over the queries of each set."""
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
    given = [part.ndcg(preset) for part in sets]
    return Mined(
        weights=_best([table.mean(axis=1) for table in tables]),
        held_out=float(np.mean([values.mean() for values in held_out])),
        preset=float(np.mean([values.mean() for values in given])),
        gain=compare(np.concatenate(given)[:, None], np.concatenate(held_out)[:, None], seed)[0],
        folds=tuple(chosen),
    )


def _table(part: GainedSet) -> Float64Array:
    """nDCG@10 of each point of the grid for each query: `[G, Q]`."""
    return np.stack([part.ndcg(_weights(*place)) for place in _GRID])


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
