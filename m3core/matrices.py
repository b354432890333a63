"""The raw M3 scores of many queries with many passages, (Q, N): m3core.scoring's formulas, in blocks of bounded bytes.

Texts have different numbers of tokens: they come packed, as the encoder gives them, so that nothing is padded and there
is nothing to mask; `packed` makes that of padded arrays. One query is a batch of one (`one_lexical`, `one_multi`).
Float16 vectors are widened block by block. m3core.torch_matrices is the same for tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

import numpy as np
import numpy.typing as npt

from m3core.scoring import AnyFloat
from m3core.types import BoolArray, Float32Array, Int64Array, LexicalBatch, MultiBatch, UInt32Array

# Of what is computed on the way to a matrix, the matrix itself not counted.
MAX_BYTES = 64 << 20
_CELL = 4  # bytes of a float32
_MATCH = 40  # bytes that one shared token takes on its way: two indices, owner, weight and product


def dense(queries: AnyFloat, passages: AnyFloat, max_bytes: int = MAX_BYTES) -> Float32Array:
    """Dot products of (Q, D) with (N, D) -> (Q, N). At least one passage is widened at a time."""
    scores = np.empty((len(queries), len(passages)), dtype=np.float32)
    wide = _wide(queries)
    step = max(1, max_bytes // (_CELL * max(1, passages.shape[1] + len(queries))))
    for start in range(0, len(passages), step):
        scores[:, start : start + step] = wide @ _wide(passages[start : start + step]).T
    return scores


def lexical(queries: LexicalBatch, passages: LexicalBatch, max_bytes: int = MAX_BYTES) -> Float32Array:
    """Sums of w_q * w_p over shared token ids, (Q, N), through an inverted index of the passages.

    The index takes three times what the passages take. At least one token's passages are looked at at a time.
    """
    texts = len(passages.indptr) - 1
    order = np.argsort(passages.ids, kind="stable")
    ids, weights = passages.ids[order], passages.weights[order]
    owner = np.repeat(np.arange(texts), np.diff(passages.indptr))[order]
    first = np.searchsorted(ids, queries.ids, "left")
    counts = np.searchsorted(ids, queries.ids, "right") - first
    scores = np.zeros((len(queries.indptr) - 1, texts), dtype=np.float32)
    for row, (start, stop) in enumerate(zip(queries.indptr[:-1].tolist(), queries.indptr[1:].tolist(), strict=True)):
        for part in _parts(counts[start:stop], max(1, max_bytes // _MATCH)):
            tokens = slice(start + part.start, start + part.stop)
            places = _ranges(first[tokens], counts[tokens])
            products = np.repeat(queries.weights[tokens], counts[tokens]) * weights[places]
            scores[row] += np.bincount(owner[places], products, texts).astype(np.float32)
    return scores


def max_sim(queries: MultiBatch, passages: MultiBatch, max_bytes: int = MAX_BYTES) -> Float32Array:
    """Means over a query's vectors of the largest dot product with a passage vector, (Q, N).

    0 where a side has no vector. At least one query vector meets one whole passage at a time, whatever `max_bytes`.
    """
    counts = np.diff(queries.offsets)
    scores = np.zeros((len(counts), len(passages.offsets) - 1), dtype=np.float32)
    asked_by = np.repeat(np.arange(len(counts)), counts)
    cells, width = max_bytes // _CELL, queries.values.shape[1]
    usual = max(1, min(len(asked_by), isqrt(cells) // 2))
    for group in _groups(passages.offsets, max(1, (cells - usual * width) // (2 * usual + width))):
        first = passages.offsets[group[0]]
        vectors = _wide(passages.values[first : passages.offsets[group[-1] + 1]])
        rows = max(1, (cells - vectors.size) // (2 * len(vectors) + width))
        for start in range(0, len(asked_by), rows):
            products = _wide(queries.values[start : start + rows]) @ vectors.T
            best = np.maximum.reduceat(products, passages.offsets[group] - first, axis=1)
            names, starts = np.unique(asked_by[start : start + rows], return_index=True)
            scores[np.ix_(names, group)] += np.add.reduceat(best, starts, axis=0)
    scores /= np.maximum(counts, 1)[:, None].astype(np.float32)
    return scores


def packed(vectors: AnyFloat, mask: BoolArray) -> MultiBatch:
    """Padded multi-vectors (N, T, D') without those where `mask` (N, T) is false."""
    return MultiBatch(np.concatenate([[0], mask.sum(axis=1).cumsum()]), _wide(vectors[mask]))


def one_lexical(ids: UInt32Array, weights: Float32Array) -> LexicalBatch:
    """The lexical weights of one text, (K,) each, as a batch."""
    return LexicalBatch(np.array([0, len(ids)]), ids, weights)


def one_multi(vectors: Float32Array) -> MultiBatch:
    """The multi-vectors of one text, (T, D'), as a batch."""
    return MultiBatch(np.array([0, len(vectors)]), vectors)


def _wide(values: AnyFloat) -> Float32Array:
    wide: Float32Array = values.astype(np.float32, copy=False)
    return wide


def _groups(offsets: Int64Array, most: int) -> Iterator[Int64Array]:
    """Consecutive passages that have vectors, by number: at most `most` vectors together, or one passage with more."""
    start = 0
    while start < len(offsets) - 1:
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + most, "right")) - 1)
        filled = start + np.flatnonzero(np.diff(offsets[start : stop + 1]))
        if len(filled):
            yield filled
        start = stop


def _parts(counts: npt.NDArray[np.intp], most: int) -> Iterator[slice]:
    """Consecutive places whose `counts` add up to at most `most`, or one with more; those of zeros may be left out."""
    ends = np.concatenate([[0], counts.cumsum()])
    start = 0
    while start < len(counts) and ends[start] < ends[-1]:
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + most, "right")) - 1)
        yield slice(start, stop)
        start = stop


def _ranges(starts: npt.NDArray[np.intp], counts: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """`counts[i]` numbers from `starts[i]` on, for all i, one after another."""
    before = counts.cumsum() - counts
    places: npt.NDArray[np.intp] = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return places
