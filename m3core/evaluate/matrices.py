"""Scores of every query with every passage, one matrix per signal, of what an encoder gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from m3core import matrices
from m3core.types import Encoded, Float32Array, Signal


def dense_matrix(queries: Encoded, passages: Encoded) -> Float32Array:
    """All dense scores, `[Q, N]`."""
    assert queries.dense is not None and passages.dense is not None  # noqa: S101, PT018
    return matrices.dense(queries.dense, passages.dense)


def lexical_matrix(queries: Encoded, passages: Encoded) -> Float32Array:
    """All lexical scores, `[Q, N]`."""
    assert queries.lexical is not None and passages.lexical is not None  # noqa: S101, PT018
    return matrices.lexical(queries.lexical, passages.lexical)


def multi_matrix(queries: Encoded, passages: Encoded) -> Float32Array:
    """All MaxSim scores (mean over query vectors), `[Q, N]`; 0 where a side has no vector."""
    assert queries.multi is not None and passages.multi is not None  # noqa: S101, PT018
    return matrices.max_sim(queries.multi, passages.multi)


MATRICES: Mapping[Signal, Callable[[Encoded, Encoded], Float32Array]] = {
    Signal.DENSE: dense_matrix,
    Signal.LEXICAL: lexical_matrix,
    Signal.MULTI: multi_matrix,
}
