"""How sure a mean over queries is: bootstrap intervals, and the paired comparison of two runs. Seeded, pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from m3core.types import Float64Array

RESAMPLES = 2_000
PERMUTATIONS = 10_000
_LEVEL = 0.95
# Draws in memory at a time.
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Difference:
    """Mean of second minus first over the same queries, its 95 % interval, and how likely chance alone gives as much.

    `p` is two-sided.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def beyond_noise(self) -> bool:
        """True if chance alone gives a difference of this size less than one time in twenty."""
        return self.p < 1 - _LEVEL


def intervals(values: Float64Array, seed: int, resamples: int = RESAMPLES) -> Float64Array:
    """95 % percentile bootstrap intervals of the column means of `[Q, M]`: `[M, 2]` (Efron 1979).

    Queries are drawn with replacement; the same seed draws the same ones.
    """
    rng = np.random.default_rng(seed)
    queries = len(values)
    even = np.full(queries, 1.0 / queries)
    draws = [rng.multinomial(queries, even, size=rows) for rows in _blocks(resamples, queries)]
    means = np.concatenate([counts @ values for counts in draws]) / queries
    tail = (1 - _LEVEL) / 2
    bounds: Float64Array = np.quantile(means, [tail, 1 - tail], axis=0).T
    return bounds


def compare(first: Float64Array, second: Float64Array, seed: int, permutations: int = PERMUTATIONS) -> list[Difference]:
    """Second against first, `[Q, M]` each, query by query and for each measure: bootstrap interval, randomisation test.

    The test flips the sign of each query's difference at random and counts how often the mean gets as far from 0
    (Smucker, Allan and Carterette, CIKM 2007); the observed signs count as one of the flips, so p is never 0.
    """
    differences = second - first
    queries, measures = differences.shape
    means = differences.mean(axis=0)
    bounds = intervals(differences, seed)
    rng = np.random.default_rng(seed)
    as_far = np.zeros(measures)
    for rows in _blocks(permutations, queries):
        signs = rng.integers(0, 2, size=(rows, queries), dtype=np.int8) * 2.0 - 1.0
        # Sums in another order differ in their last digits: what is as far up to them counts.
        as_far += (np.abs(signs @ differences) / queries >= np.abs(means) - 1e-12).sum(axis=0)
    chances = (as_far + 1) / (permutations + 1)
    return [
        Difference(float(mean), float(low), float(high), float(p))
        for mean, (low, high), p in zip(means, bounds, chances, strict=True)
    ]


def _blocks(total: int, width: int) -> Iterator[int]:
    """`total` rows of `width` numbers, some at a time."""
    most = max(1, _BLOCK_BYTES // (8 * max(1, width)))
    for first in range(0, total, most):
        yield min(most, total - first)
