"""Score matrices against one formula a pair, on numpy and on torch, under any byte cap."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from m3core import matrices, scoring, torch_matrices
from m3core.types import LexicalBatch, MultiBatch

WIDTH = 4
CAPS = st.sampled_from([1, 64, 200, 1000, 1 << 20])


class Side(NamedTuple):
    """Some texts, packed and padded."""

    dense: np.ndarray
    lexical: LexicalBatch
    multi: MultiBatch
    vectors: np.ndarray
    mask: np.ndarray
    ids: np.ndarray
    weights: np.ndarray


def made(chance: np.random.Generator, texts: int, tokens: int, vocabulary: int = 30) -> Side:
    """Random texts with 0 to `tokens` vectors and weights; what the mask hides is not zero."""
    counts = chance.integers(0, tokens, size=texts, endpoint=True)
    vectors = chance.uniform(-1, 1, (texts, tokens, WIDTH)).astype(np.float32)
    mask = np.arange(tokens) < counts[:, None]
    weights = np.where(mask, chance.uniform(0.1, 2, (texts, tokens)), 0).astype(np.float32)
    ids = np.stack([np.sort(chance.permutation(vocabulary)[:tokens]) for _ in range(texts)])
    indptr = np.concatenate([[0], counts.cumsum()])
    lexical = LexicalBatch(indptr, ids[mask].astype(np.uint32), weights[mask])
    dense = chance.uniform(-1, 1, (texts, WIDTH)).astype(np.float32)
    return Side(dense, lexical, matrices.packed(vectors, mask), vectors, mask, ids, weights)


def tensors(side: Side, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(getattr(side, name)) for name in names]


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 7), st.integers(1, 6), CAPS)
def test_every_cell_is_the_score_of_its_pair(seed: int, asked: int, texts: int, tokens: int, cap: int) -> None:
    chance = np.random.default_rng(seed)
    queries, passages = made(chance, asked, tokens), made(chance, texts, tokens)
    pairs = [(i, j) for i in range(asked) for j in range(texts)]

    def expected(score: Any) -> Any:
        return pytest.approx(np.array([score(i, j) for i, j in pairs]).reshape(asked, texts), abs=1e-5)

    dense = expected(lambda i, j: sum(float(a) * float(b) for a, b in zip(queries.dense[i], passages.dense[j])))  # noqa: B905
    assert matrices.dense(queries.dense, passages.dense, cap) == dense
    assert torch_matrices.dense(*tensors(queries, "dense"), *tensors(passages, "dense")).numpy() == dense

    lexical = expected(lambda i, j: scoring.lexical(*queries.lexical.row(i), *passages.lexical.row(j)))
    assert matrices.lexical(queries.lexical, passages.lexical, cap) == lexical
    by_torch = torch_matrices.lexical(*tensors(queries, "ids", "weights"), *tensors(passages, "ids", "weights"), cap)
    assert by_torch.numpy() == lexical

    late = expected(lambda i, j: scoring.max_sim(queries.multi.row(i), passages.multi.row(j)))
    assert matrices.max_sim(queries.multi, passages.multi, cap) == late
    masked = tensors(queries, "vectors", "mask") + tensors(passages, "vectors", "mask")
    assert torch_matrices.max_sim(*masked, cap).numpy() == late


def test_one_query_against_many_candidates() -> None:
    chance = np.random.default_rng(5)
    query, passages = made(chance, 1, 6), made(chance, 40, 9)
    ids, weights = query.lexical.row(0)
    (row,) = matrices.lexical(matrices.one_lexical(ids, weights), passages.lexical)
    assert row == pytest.approx([scoring.lexical(ids, weights, *passages.lexical.row(i)) for i in range(40)], rel=1e-5)
    (row,) = matrices.max_sim(matrices.one_multi(query.multi.row(0)), passages.multi)
    expected = [scoring.max_sim(query.multi.row(0), passages.multi.row(i)) for i in range(40)]
    assert row == pytest.approx(expected, abs=1e-6)


def test_masked_vectors_do_not_lift_a_negative_maximum() -> None:
    vectors = np.array([[[-0.5, 0.1], [9.0, 9.0]]], dtype=np.float32)
    mask, query = np.array([[True, False]]), np.array([[[1.0, 0.0]]], dtype=np.float32)
    asked = np.array([[True]])
    found = matrices.max_sim(matrices.packed(query, asked), matrices.packed(vectors, mask))
    assert found.tolist() == [[-0.5]]
    by_torch = torch_matrices.max_sim(*map(torch.from_numpy, (query, asked, vectors, mask)))
    assert by_torch.tolist() == [[-0.5]]


def test_stored_float16_vectors_are_widened() -> None:
    chance = np.random.default_rng(6)
    queries, passages = made(chance, 3, 5), made(chance, 8, 5)
    half = MultiBatch(passages.multi.offsets, passages.multi.values.astype(np.float16))  # type: ignore[arg-type]
    assert matrices.max_sim(queries.multi, half, 500) == pytest.approx(
        matrices.max_sim(queries.multi, passages.multi), abs=1e-3
    )
    stored = passages.dense.astype(np.float16)
    assert matrices.dense(queries.dense, stored) == pytest.approx(queries.dense @ passages.dense.T, abs=1e-3)


@pytest.mark.parametrize("texts", [(0, 3), (3, 0), (0, 0)])
def test_no_texts_give_empty_matrices(texts: tuple[int, int]) -> None:
    chance = np.random.default_rng(1)
    one = made(chance, 3, 4)
    none = Side(
        np.zeros((0, WIDTH), np.float32), LexicalBatch(np.zeros(1, np.int64), *one.lexical.row(0)), one.multi,
        *(array[:0] for array in (one.vectors, one.mask, one.ids, one.weights)),
    )  # fmt: skip
    none = none._replace(
        lexical=LexicalBatch(np.zeros(1, np.int64), one.lexical.ids[:0], one.lexical.weights[:0]),
        multi=MultiBatch(np.zeros(1, np.int64), one.multi.values[:0]),
    )
    queries, passages = (one if count else none for count in texts)
    assert matrices.dense(queries.dense, passages.dense).shape == texts
    assert matrices.lexical(queries.lexical, passages.lexical).shape == texts
    assert matrices.max_sim(queries.multi, passages.multi).shape == texts
    lexical = tensors(queries, "ids", "weights") + tensors(passages, "ids", "weights")
    assert tuple(torch_matrices.lexical(*lexical).shape) == texts
    masked = tensors(queries, "vectors", "mask") + tensors(passages, "vectors", "mask")
    assert tuple(torch_matrices.max_sim(*masked).shape) == texts


LARGE = 1 << 20


def sides() -> tuple[Side, Side]:
    """40 queries and 300 passages: all products of their vectors at once are some 60 MiB."""
    chance = np.random.default_rng(2)
    return made(chance, 40, 64, vocabulary=200), made(chance, 300, 160, vocabulary=200)


def test_numpy_stays_below_the_byte_cap() -> None:
    queries, passages = sides()
    index_bytes = 8 * sum(array.nbytes for array in (passages.lexical.ids, passages.lexical.weights))
    for run, besides in (
        (lambda cap: matrices.max_sim(queries.multi, passages.multi, cap), 0),
        (lambda cap: matrices.lexical(queries.lexical, passages.lexical, cap), index_bytes),
    ):
        peaks = []
        for cap in (LARGE, 1 << 30):
            gc.collect()
            tracemalloc.start()
            scores = run(cap)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[0] <= LARGE + scores.nbytes + besides + (1 << 18)
        assert besides or peaks[1] > 8 * LARGE


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def test_torch_makes_no_tensor_above_the_byte_cap() -> None:
    queries, passages = sides()
    given_bytes = passages.vectors.nbytes
    masked = tensors(queries, "vectors", "mask") + tensors(passages, "vectors", "mask")
    weighted = tensors(queries, "ids", "weights") + tensors(passages, "ids", "weights")
    found = []
    for cap in (LARGE, 1 << 30):
        with Largest() as largest:
            torch_matrices.max_sim(*masked, cap)
        found.append(largest.bytes)
    assert found[0] <= LARGE < given_bytes * 8 < found[1]
    with Largest() as largest:
        torch_matrices.lexical(*weighted, LARGE)
    assert largest.bytes <= LARGE
