"""Windows of long texts cover them, fit into the model, and rank as their vectors say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.evaluate.windows import BEST, MEAN, split_windows, window_rankings
from m3core.tokenize import TextTokenizer
from m3core.types import Encoded

_WORDS = st.lists(
    st.sampled_from(["the key", "Schlüssel", "低温実験室の鍵", " ", "\n", "9", "ﬁn", "🙂", "trains."]), max_size=40
)


@given(_WORDS, st.integers(24, 60))
def test_windows_are_the_text_in_parts_that_fit(tiny_model: Path, words: list[str], limit: int) -> None:
    tokenizer, prefix = TextTokenizer.load(tiny_model), "passage: "
    text = " ".join(words)
    parts = split_windows(tokenizer, text, limit, prefix)
    assert "".join(parts) == text
    assert len(parts) == 1 or all(parts)
    if not tokenizer.encode([text], prefix, limit)[1][0]:
        assert parts == [text]
    assert not any(tokenizer.encode(parts, prefix, limit)[1])


def _encoded(dense: np.ndarray) -> Encoded:
    texts = len(dense)
    return Encoded(dense.astype(np.float32), None, None, np.ones(texts, np.int32), np.zeros(texts, np.bool_))


def test_mean_and_best_equal_loops() -> None:
    rng = np.random.default_rng(0)
    counts = [3, 1, 4, 2]
    windows = rng.standard_normal((10, 5)).astype(np.float32)
    windows /= np.linalg.norm(windows, axis=1, keepdims=True)
    starts = (np.cumsum(counts) - counts).astype(np.int64)
    blocks = [_encoded(rng.standard_normal((n, 5))) for n in (2, 3)]
    found = window_rankings(blocks, windows, starts)
    queries = np.concatenate([block.dense for block in blocks if block.dense is not None])
    for row, query in enumerate(queries):
        best, mean = [], []
        for start, count in zip(starts, counts, strict=True):
            part = windows[start : start + count]
            best.append(max(float(query @ vector) for vector in part))
            middle = part.mean(axis=0)
            mean.append(float(query @ middle / np.linalg.norm(middle)))
        for name, scores in ((BEST, best), (MEAN, mean)):
            order = sorted(range(4), key=lambda place, scores=scores: -scores[place])
            assert found[name].row(row) == order
            assert found[name].scores[row].tolist() == pytest.approx([scores[place] for place in order], abs=1e-5)
