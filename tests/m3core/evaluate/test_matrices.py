"""Matrices against single scores, over a real encoder's output and over random vectors with gaps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core import Encoder, matrices, scoring
from m3core.evaluate.matrices import dense_matrix, lexical_matrix, multi_matrix
from m3core.matrices import max_sim
from m3core.types import Encoded, MultiBatch

_PASSAGES = ["the key of the desk", "travel by night train", "", "refunded within thirty days", "the desk at nine"]
_QUERIES = ["key desk", "night", "days refunded", ""]


def test_matrices_equal_single_scores(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model)
    queries, passages = encoder.encode(_QUERIES, "query"), encoder.encode(_PASSAGES)
    dense, lexical, multi = (matrix(queries, passages) for matrix in (dense_matrix, lexical_matrix, multi_matrix))
    assert queries.dense is not None
    assert passages.dense is not None
    assert queries.lexical is not None
    assert passages.lexical is not None
    assert queries.multi is not None
    assert passages.multi is not None
    for i in range(len(_QUERIES)):
        assert dense[i] == pytest.approx(scoring.dense(queries.dense[i], passages.dense), abs=1e-6)
        for j in range(len(_PASSAGES)):
            single = scoring.lexical(*queries.lexical.row(i), *passages.lexical.row(j))
            assert lexical[i, j] == pytest.approx(single, rel=1e-4, abs=1e-6)
            assert multi[i, j] == pytest.approx(scoring.max_sim(queries.multi.row(i), passages.multi.row(j)), abs=1e-5)


def _multi(counts: list[int], rng: np.random.Generator) -> Encoded:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = rng.standard_normal((int(offsets[-1]), 4)).astype(np.float32)
    tokens = np.asarray(counts, dtype=np.int32)
    return Encoded(None, None, MultiBatch(offsets, values), tokens, np.zeros(len(counts), dtype=np.bool_))


_COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


@given(_COUNTS, _COUNTS, st.integers(0, 5), st.sampled_from([1, 40, 600, 1 << 20]))
def test_max_sim_in_blocks_of_any_size_equals_single_scores(
    queries: list[int], passages: list[int], seed: int, block_bytes: int
) -> None:
    rng = np.random.default_rng(seed)
    asked, told = _multi(queries, rng), _multi(passages, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "max_sim", partial(max_sim, max_bytes=block_bytes))
        scores = multi_matrix(asked, told)
    assert asked.multi is not None
    assert told.multi is not None
    for i in range(len(queries)):
        for j in range(len(passages)):
            assert scores[i, j] == pytest.approx(scoring.max_sim(asked.multi.row(i), told.multi.row(j)), abs=1e-5)
