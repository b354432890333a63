"""The raw M3 scores, one formula per function. Shapes: query (D,), (Tq, D'); passages (N, D), (Tp, D')."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from m3core.types import Float32Array, Int64Array, UInt32Array

AnyFloat = npt.NDArray[np.float16] | npt.NDArray[np.float32]


def dense(query: AnyFloat, passages: AnyFloat) -> Float32Array:
    """Dot products of (D,) with (N, D) -> (N,). Vectors have norm 1, so this is the cosine."""
    product: Float32Array = passages.astype(np.float32) @ query.astype(np.float32)
    return product


def lexical(
    query_ids: UInt32Array, query_weights: Float32Array, passage_ids: UInt32Array, passage_weights: Float32Array
) -> float:
    """Sum of w_q * w_p over shared token ids. Ids are ascending and distinct: (Kq,), (Kq,), (Kp,), (Kp,)."""
    _, in_query, in_passage = np.intersect1d(query_ids, passage_ids, assume_unique=True, return_indices=True)
    return float(query_weights[in_query].astype(np.float64) @ passage_weights[in_passage].astype(np.float64))


def token_contributions(
    query_ids: UInt32Array, query_weights: Float32Array, passage_ids: UInt32Array, passage_weights: Float32Array
) -> list[tuple[int, float]]:
    """(token id, w_q * w_p) of every shared token, largest first: the terms of `lexical`."""
    shared, in_query, in_passage = np.intersect1d(query_ids, passage_ids, assume_unique=True, return_indices=True)
    products = query_weights[in_query] * passage_weights[in_passage]
    order = np.lexsort((shared, -products))
    return [(int(shared[i]), float(products[i])) for i in order]


def max_sim(query: AnyFloat, passage: AnyFloat) -> float:
    """Mean over query vectors of the largest dot product with a passage vector: (Tq, D'), (Tp, D') -> scalar.

    0.0 if either side has no vector.
    """
    if not len(query) or not len(passage):
        return 0.0
    return float(alignments(query, passage)[1].mean(dtype=np.float64))


def alignments(query: AnyFloat, passage: AnyFloat) -> tuple[Int64Array, Float32Array]:
    """For each query vector the passage vector that it met and their dot product: (Tq,), (Tq,). Needs Tp > 0."""
    similarity: Float32Array = query.astype(np.float32) @ passage.astype(np.float32).T
    best: Int64Array = similarity.argmax(axis=1)
    values: Float32Array = similarity[np.arange(len(query)), best]
    return best, values
