"""The arrays of all texts from those of their batches, in the order of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3core.types import Float32Array, Int64Array, LexicalBatch, MultiBatch

_NO_IDS = np.zeros(0, dtype=np.uint32)
_NO_WEIGHTS = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Part:
    """Results of one batch, in the order of its texts; `vectors` counts the multi-vectors of each.

    `dense` is `[n, D]`, `multi` `[sum of vectors, D']`; a signal that was not computed is None.
    """

    indices: list[int]
    vectors: list[int]
    dense: Float32Array | None
    lexical: LexicalBatch | None
    multi: Float32Array | None


def gather_dense(parts: Sequence[Part], texts: int, width: int) -> Float32Array:
    """Dense vectors `[N, D]`; zeros for a text that is in no part."""
    gathered = np.zeros((texts, width), dtype=np.float32)
    for part in parts:
        gathered[part.indices] = part.dense
    return gathered


def gather_lexical(parts: Sequence[Part], texts: int) -> LexicalBatch:
    """Lexical weights of N texts; none for a text that is in no part."""
    rows = [(_NO_IDS, _NO_WEIGHTS)] * texts
    for part in parts:
        if part.lexical is not None:
            for place, index in enumerate(part.indices):
                rows[index] = part.lexical.row(place)
    sizes = np.array([len(ids) for ids, _ in rows], dtype=np.int64)
    return LexicalBatch(
        indptr=_cumulative(sizes),
        ids=np.concatenate([_NO_IDS, *(ids for ids, _ in rows)]),
        weights=np.concatenate([_NO_WEIGHTS, *(weights for _, weights in rows)]),
    )


def gather_multi(parts: Sequence[Part], texts: int, width: int) -> MultiBatch:
    """Multi-vectors of N texts, `width` wide; none for a text that is in no part."""
    counts = np.zeros(texts, dtype=np.int64)
    for part in parts:
        counts[part.indices] = part.vectors
    offsets = _cumulative(counts)
    values = np.empty((int(offsets[-1]), width), dtype=np.float32)
    for part in parts:
        start = 0
        for index, vectors in zip(part.indices, part.vectors, strict=True):
            if part.multi is not None:
                values[offsets[index] : offsets[index + 1]] = part.multi[start : start + vectors]
            start += vectors
    return MultiBatch(offsets, values)


def _cumulative(sizes: Int64Array) -> Int64Array:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
