"""Each formula against its definition, written out in loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m3core import scoring

_VALUES = st.floats(-1, 1, width=32)


def _matrix(rows: st.SearchStrategy[int], width: int = 4) -> st.SearchStrategy[np.ndarray]:
    return rows.flatmap(lambda n: hnp.arrays(np.float32, (n, width), elements=_VALUES))


_WEIGHTS = st.dictionaries(st.integers(0, 40), st.floats(0.0078125, 3, width=32), max_size=20)


def _arrays(weights: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    ids = sorted(weights)
    return np.array(ids, dtype=np.uint32), np.array([weights[i] for i in ids], dtype=np.float32)


@given(_matrix(st.integers(1, 5)), hnp.arrays(np.float32, 4, elements=_VALUES))
def test_dense_is_the_dot_product(passages: np.ndarray, query: np.ndarray) -> None:
    expected = [sum(float(a) * float(b) for a, b in zip(query, row, strict=True)) for row in passages]
    assert scoring.dense(query, passages) == pytest.approx(expected, abs=1e-5)


@given(_WEIGHTS, _WEIGHTS)
def test_lexical_sums_products_of_shared_tokens(query: dict[int, float], passage: dict[int, float]) -> None:
    expected = sum(weight * passage[token] for token, weight in query.items() if token in passage)
    assert scoring.lexical(*_arrays(query), *_arrays(passage)) == pytest.approx(expected, rel=1e-6)


@given(_WEIGHTS, _WEIGHTS)
def test_token_contributions_are_the_terms_of_the_lexical_score(q: dict[int, float], p: dict[int, float]) -> None:
    terms = scoring.token_contributions(*_arrays(q), *_arrays(p))
    assert {token for token, _ in terms} == q.keys() & p.keys()
    assert [value for _, value in terms] == sorted((value for _, value in terms), reverse=True)
    assert sum(value for _, value in terms) == pytest.approx(scoring.lexical(*_arrays(q), *_arrays(p)), rel=1e-5)


@given(_matrix(st.integers(1, 5)), _matrix(st.integers(1, 6)))
def test_max_sim_is_the_mean_of_the_best_dot_products(query: np.ndarray, passage: np.ndarray) -> None:
    best = [max(float(np.dot(q.astype(np.float64), p.astype(np.float64))) for p in passage) for q in query]
    assert scoring.max_sim(query, passage) == pytest.approx(sum(best) / len(best), abs=1e-5)
    met, values = scoring.alignments(query, passage)
    assert values == pytest.approx(best, abs=1e-5)
    for row, column, value in zip(query, met, values, strict=True):
        assert float(row @ passage[column]) == pytest.approx(float(value), abs=1e-6)


def test_max_sim_of_negative_similarities_is_negative() -> None:
    # FlagEmbedding's batched path leaves padded vectors at zero and clips such rows to 0; ours does not.
    query, passage = np.array([[1.0, 0.0]], dtype=np.float32), np.array([[-0.5, 0.1]], dtype=np.float32)
    assert scoring.max_sim(query, passage) == pytest.approx(-0.5)


@pytest.mark.parametrize(("query", "passage"), [(0, 2), (2, 0), (0, 0)])
def test_max_sim_without_vectors_is_zero(query: int, passage: int) -> None:
    assert scoring.max_sim(np.zeros((query, 3), dtype=np.float32), np.ones((passage, 3), dtype=np.float32)) == 0.0
