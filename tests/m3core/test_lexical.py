"""Vectorised lexical pooling against the loop that the paper describes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m3core.lexical import pool_token_weights

_TOKEN = st.tuples(st.integers(0, 12), st.floats(-1, 2, width=32))
_DROPPED = np.array([0, 1, 2, 3], dtype=np.int64)


def naive(texts: list[list[tuple[int, float]]]) -> list[dict[int, np.float32]]:
    """max over positions of relu(weight), per token id; zero weights and special ids left out."""
    result = []
    for text in texts:
        weights: dict[int, np.float32] = {}
        for token, raw in text:
            weight = np.float32(max(raw, 0.0))
            if weight > 0 and token not in _DROPPED:
                weights[token] = max(weights.get(token, np.float32(0)), weight)
        result.append(weights)
    return result


@given(st.lists(st.lists(_TOKEN, max_size=15), max_size=5))
def test_pooling_equals_the_loop(texts: list[list[tuple[int, float]]]) -> None:
    rows = np.array([i for i, text in enumerate(texts) for _ in text], dtype=np.int64)
    ids = np.array([token for text in texts for token, _ in text], dtype=np.int64)
    weights = np.maximum(np.array([raw for text in texts for _, raw in text], dtype=np.float32), 0)
    batch = pool_token_weights(rows, ids, weights, _DROPPED, len(texts))
    assert batch.ids.dtype == np.uint32
    assert len(batch.indptr) == len(texts) + 1
    for i, expected in enumerate(naive(texts)):
        found_ids, found_weights = batch.row(i)
        assert found_ids.tolist() == sorted(expected)
        assert found_weights.tolist() == [float(expected[token]) for token in sorted(expected)]
