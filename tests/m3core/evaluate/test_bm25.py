"""BM25 equals its formula, computed pair by pair."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.evaluate.bm25 import K1, B, bm25, token_ids
from m3core.tokenize import TextTokenizer

_TEXTS = st.lists(st.lists(st.sampled_from([0, 5, 7, 250_001]), max_size=6), min_size=1, max_size=6)


def _score(query: list[int], document: list[int], documents: list[list[int]]) -> float:
    mean = sum(map(len, documents)) / len(documents)
    counts = Counter(document)
    score = 0.0
    for token in query:
        having = sum(token in each for each in documents)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        frequency = counts[token]
        score += idf * frequency / (frequency + K1 * (1 - B + B * len(document) / mean)) if frequency else 0.0
    return score


@given(_TEXTS, _TEXTS)
def test_scores_are_the_formulas(queries: list[list[int]], documents: list[list[int]]) -> None:
    found = bm25(queries, documents)
    for row, query in enumerate(queries):
        expected = {place: score for place, each in enumerate(documents) if (score := _score(query, each, documents))}
        places = found.row(row)
        assert set(places) == set(expected)
        assert found.scores[row, : len(places)].tolist() == pytest.approx(
            [expected[place] for place in places], rel=1e-4
        )
        assert (
            sorted(found.scores[row, : len(places)].tolist(), reverse=True) == found.scores[row, : len(places)].tolist()
        )


def test_tokens_are_the_models_without_prefix_specials_and_limit(tiny_model: Path) -> None:
    tokenizer = TextTokenizer.load(tiny_model)
    text = "the desk at nine " * 200
    ids = token_ids(tokenizer, [text, ""])
    assert ids[1] == []
    assert len(ids[0]) == tokenizer.count([text])[0] > 256
    assert not set(ids[0]) & {0, 2}
