"""Exact search in blocks equals brute force in one piece, ties and all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m3core.errors import ModelError
from m3core.evaluate.search import Best, Rankings, Search, mixed, rank_fused
from m3core.types import Encoded, LexicalBatch, MultiBatch, Signal

# Few values, so that ties are common; signs, zeros of both signs, and the ends of the range.
_VALUES = st.sampled_from([-3.4e38, -2.0, -1.0, -0.0, 0.0, 1e-45, 0.5, 1.0, 3.4e38])
_SCORES = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=_VALUES)


def _brute(scores: np.ndarray, depth: int, *, positive: bool = False) -> list[list[int]]:
    """Sorted in Python by (-score, place)."""
    return [
        sorted((place for place in range(len(row)) if not positive or row[place] > 0), key=lambda p: (-row[p], p))[
            :depth
        ]
        for row in scores.tolist()
    ]


@given(_SCORES, st.integers(1, 14), st.lists(st.integers(0, 12), max_size=3), st.booleans())
def test_the_best_of_blocks_are_the_best_of_all(
    scores: np.ndarray, depth: int, cuts: list[int], positive: bool
) -> None:
    best = Best(len(scores), depth)
    edges = sorted({0, scores.shape[1], *(cut for cut in cuts if cut < scores.shape[1])})
    for first, last in itertools.pairwise(edges):
        best.add(scores[:, first:last], first, positive=positive)
    found = best.rankings()
    expected = _brute(scores, depth, positive=positive)
    assert [found.row(query) for query in range(len(scores))] == expected
    for query, places in enumerate(expected):
        assert found.scores[query, : len(places)].tolist() == [float(scores[query, place]) for place in places]


def _encoded(texts: int, rng: np.random.Generator) -> Encoded:
    """Vectors of small whole numbers: sums and products are exact in any order, so that ties are ties."""
    counts = rng.integers(1, 4, size=texts)
    words = [np.sort(rng.choice(6, size=rng.integers(0, 4), replace=False)).astype(np.uint32) for _ in range(texts)]
    ids = np.concatenate([np.zeros(0, np.uint32), *words])
    return Encoded(
        dense=rng.integers(-2, 3, size=(texts, 3)).astype(np.float32),
        lexical=LexicalBatch(
            np.cumsum([0, *map(len, words)]).astype(np.int64),
            ids,
            rng.integers(1, 3, size=len(ids)).astype(np.float32),
        ),
        multi=MultiBatch(
            np.cumsum([0, *counts]).astype(np.int64),
            rng.integers(-2, 3, size=(int(counts.sum()), 3)).astype(np.float32),
        ),
        token_counts=np.ones(texts, np.int32),
        truncated=np.zeros(texts, np.bool_),
    )


def _all_scores(queries: Encoded, passages: Encoded) -> dict[Signal, np.ndarray]:
    """Brute force, pair by pair."""
    assert queries.dense is not None
    assert passages.dense is not None
    assert queries.lexical is not None
    assert passages.lexical is not None
    assert queries.multi is not None
    assert passages.multi is not None
    scores = {signal: np.zeros((len(queries), len(passages)), np.float32) for signal in Signal}
    for i in range(len(queries)):
        words = dict(zip(*(part.tolist() for part in queries.lexical.row(i)), strict=True))
        for j in range(len(passages)):
            scores[Signal.DENSE][i, j] = float((queries.dense[i] * passages.dense[j]).sum())
            shared = zip(*(part.tolist() for part in passages.lexical.row(j)), strict=True)
            scores[Signal.LEXICAL][i, j] = sum(words.get(token, 0.0) * weight for token, weight in shared)
            best = [max(float(q @ p) for p in passages.multi.row(j)) for q in queries.multi.row(i)]
            scores[Signal.MULTI][i, j] = np.float32(sum(best)) / np.float32(len(best))
    return scores


_MIXES = {
    "dense": {Signal.DENSE: 1.0},
    "lexical": {Signal.LEXICAL: 1.0},
    "multi": {Signal.MULTI: 1.0},
    "all": {Signal.DENSE: 0.25, Signal.LEXICAL: 0.25, Signal.MULTI: 0.5},
    "two": {Signal.DENSE: 0.0, Signal.LEXICAL: 0.5, Signal.MULTI: 0.5},
}


@pytest.mark.parametrize("seed", range(5))
def test_search_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, passages = [_encoded(3, rng), _encoded(2, rng)], [_encoded(n, rng) for n in (7, 1, 12)]
    search = Search(queries, _MIXES, depth=9, keep=True)
    for block in passages:
        search.add(block)
    parts = [[_all_scores(block, each) for each in passages] for block in queries]
    scores = {signal: np.concatenate([np.hstack([part[signal] for part in row]) for row in parts]) for signal in Signal}
    kept = search.scores()
    for signal in Signal:
        assert (kept[signal] == scores[signal]).all()
    for name, found in search.rankings().items():
        total = sum(np.float32(weight) * scores[signal] for signal, weight in _MIXES[name].items())
        expected = _brute(np.asarray(total, np.float32), 9, positive=name == "lexical")
        assert [found.row(query) for query in range(5)] == expected, name


def test_a_score_that_is_no_number_is_refused() -> None:
    rng = np.random.default_rng(0)
    queries, passages = _encoded(2, rng), _encoded(3, rng)
    assert passages.dense is not None
    passages.dense[1, 0] = np.nan
    with pytest.raises(ModelError, match="a dense score is not a finite number"):
        Search([queries], {"dense": {Signal.DENSE: 1.0}}).add(passages)


def test_a_mix_needs_no_scores_of_signals_that_weigh_nothing() -> None:
    dense = np.array([[1.0, 2.0]], np.float32)
    assert mixed({Signal.DENSE: dense}, {Signal.DENSE: 0.5, Signal.MULTI: 0.0}).tolist() == [[0.5, 1.0]]


def test_rank_fusion_by_hand() -> None:
    first = Rankings(np.array([[4, 2, 0]]), np.array([[3.0, 2.0, 1.0]], np.float32))
    second = Rankings(np.array([[2, 5, -1]]), np.array([[9.0, 8.0, 0.0]], np.float32))
    fused = rank_fused([first, second], depth=3)
    # 2: 1/62 + 1/61; 4: 1/61; 5: 1/62; 0: 1/63 is beyond the depth.
    assert fused.row(0) == [2, 4, 5]
    assert fused.scores[0].tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_rank_fusion_breaks_ties_by_place() -> None:
    runs = [
        Rankings(np.array([[7, 3]]), np.zeros((1, 2), np.float32)),
        Rankings(np.array([[3, 7]]), np.zeros((1, 2), np.float32)),
    ]
    assert rank_fused(runs, depth=2).row(0) == [3, 7]
