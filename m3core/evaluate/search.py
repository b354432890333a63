"""Exact search: every document is scored for every query, in blocks, and the best of each query are kept.

One rule breaks ties everywhere: a higher score, compared in float32, comes first, and of equal ones the document with
the lower place. Callers number documents by descending id, which makes it the rule of trec_eval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m3core.errors import ModelError
from m3core.evaluate.matrices import MATRICES
from m3core.fusion import reciprocal_rank_fusion
from m3core.types import Encoded, Float32Array, Int64Array, Signal

# What trec_eval's users keep per query.
DEPTH = 1000
# Share of each signal in a run's score; a signal alone is {signal: 1.0}.
Mix = Mapping[Signal, float]

_ABSENT = np.iinfo(np.int64).min
_LOW = np.int64(0xFFFFFFFF)


@dataclass(frozen=True)
class Rankings:
    """The best documents of each query: `places` and `scores` are `[Q, K]`, best first; place -1 where none is."""

    places: Int64Array
    scores: Float32Array

    def row(self, query: int) -> list[int]:
        """Places of one query's documents, best first."""
        row = self.places[query]
        found: list[int] = row[row >= 0].tolist()
        return found


class Best:
    """The best `depth` documents of each of some queries, over as many blocks of scores as one likes."""

    def __init__(self, queries: int, depth: int = DEPTH) -> None:
        self._depth = depth
        self._keys: Int64Array = np.empty((queries, 0), dtype=np.int64)

    def add(self, scores: Float32Array, first: int, *, positive: bool = False) -> None:
        """Scores `[Q, W]` of documents `first`, `first` + 1, ...; with `positive` those of 0 or less are no hits."""
        keys = _keys(scores, first)
        if positive:
            keys[scores <= 0] = _ABSENT
        merged = np.concatenate([self._keys, keys], axis=1)
        if merged.shape[1] > self._depth:
            cut = merged.shape[1] - self._depth
            merged = np.partition(merged, cut, axis=1)[:, cut:]
        self._keys = merged

    def rankings(self) -> Rankings:
        """What was best so far."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        places = np.where(keys == _ABSENT, -1, _LOW - (keys & _LOW))
        bits = (keys >> 32).astype(np.int32)
        scores = _turned(bits).view(np.float32)
        return Rankings(places, np.where(places < 0, np.float32(0), scores))


class Search:
    """Exact search for some blocks of queries over documents that come in blocks.

    `mixes` names the runs. With `keep` every score stays in memory as well, for `scores`.
    """

    def __init__(
        self, queries: Sequence[Encoded], mixes: Mapping[str, Mix], depth: int = DEPTH, *, keep: bool = False
    ) -> None:
        self._queries = queries
        self._mixes = mixes
        self._signals = [signal for signal in Signal if any(mix.get(signal) for mix in mixes.values())]
        self._best = {name: [Best(len(block), depth) for block in queries] for name in mixes}
        self._kept: dict[Signal, list[list[Float32Array]]] | None = (
            {signal: [[] for _ in queries] for signal in self._signals} if keep else None
        )
        self._documents = 0

    def add(self, passages: Encoded) -> None:
        """Score the next documents. Raises ModelError if a score is not a finite number."""
        for number, block in enumerate(self._queries):
            matrices = {signal: _finite(signal, MATRICES[signal](block, passages)) for signal in self._signals}
            for name, mix in self._mixes.items():
                self._best[name][number].add(mixed(matrices, mix), self._documents, positive=is_lexical(mix))
            if self._kept is not None:
                for signal, matrix in matrices.items():
                    self._kept[signal][number].append(matrix)
        self._documents += len(passages)

    def rankings(self) -> dict[str, Rankings]:
        """The best documents of each run."""
        return {name: joined([best.rankings() for best in blocks]) for name, blocks in self._best.items()}

    def scores(self) -> dict[Signal, Float32Array]:
        """All scores of each signal, `[Q, N]`; only with `keep`."""
        kept = self._kept or {}
        return {signal: np.concatenate([np.hstack(parts) for parts in blocks]) for signal, blocks in kept.items()}


def is_lexical(mix: Mix) -> bool:
    """Whether nothing but the lexical score counts: then documents without a word of the query are no hits."""
    return [signal for signal, weight in mix.items() if weight] == [Signal.LEXICAL]


def mixed(matrices: Mapping[Signal, Float32Array], mix: Mix) -> Float32Array:
    """Weighted sum of raw scores of one shape, in float32; signals of weight 0 need not be there."""
    parts = [np.float32(weight) * matrices[signal] for signal, weight in mix.items() if weight]
    total: Float32Array = np.sum(parts, axis=0, dtype=np.float32)
    return total


def rank_fused(runs: Sequence[Rankings], depth: int = DEPTH) -> Rankings:
    """Reciprocal rank fusion (m3core.fusion) of runs over the same queries."""
    queries = len(runs[0].places)
    places = np.full((queries, depth), -1, dtype=np.int64)
    scores = np.zeros((queries, depth), dtype=np.float32)
    for query in range(queries):
        fused = reciprocal_rank_fusion([run.row(query) for run in runs])
        found, values = np.fromiter(fused, np.int64), np.fromiter(fused.values(), np.float32)
        order = np.lexsort((found, -values))[:depth]
        places[query, : len(order)], scores[query, : len(order)] = found[order], values[order]
    return Rankings(places, scores)


def joined(parts: Sequence[Rankings]) -> Rankings:
    """One after another: rankings of blocks of queries."""
    return Rankings(np.concatenate([part.places for part in parts]), np.concatenate([part.scores for part in parts]))


def _keys(scores: Float32Array, first: int) -> Int64Array:
    """One integer per document that sorts by score, then by the lower place: score above, turned place below."""
    # Adding 0 makes -0.0 equal to 0.0.
    bits = _turned((scores + np.float32(0)).view(np.int32)).astype(np.int64)
    places = _LOW - np.arange(first, first + scores.shape[1], dtype=np.int64)
    keys: Int64Array = (bits << 32) | places
    return keys


def _turned(bits: np.typing.NDArray[np.int32]) -> np.typing.NDArray[np.int32]:
    """Bits of float32 as integers of the same order, and back: those of negative numbers run the other way."""
    return np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)


def _finite(signal: Signal, matrix: Float32Array) -> Float32Array:
    if not np.isfinite(matrix).all():
        raise ModelError(f"a {signal} score is not a finite number", "use other weights; these are damaged")
    return matrix
