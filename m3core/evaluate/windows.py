"""Long documents and a model with a short input: the dense vectors of windows, averaged or the best of them.

The run that these are held against is plain truncation. Windows lie side by side, so that each token is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from m3core.evaluate.search import DEPTH, Best, Rankings, joined
from m3core.tokenize import TextTokenizer
from m3core.types import Encoded, Float32Array, Int64Array

MEAN, BEST = "windows:mean", "windows:best"
# A text that is cut out of another may have a token more than it had inside.
_SPARE = 4
# Scores of windows in memory at a time.
_BLOCK_BYTES = 64 << 20


def split_windows(tokenizer: TextTokenizer, text: str, limit: int, prefix: str) -> list[str]:
    """`text` in parts that a model with `limit` tokens reads whole; a text that fits is its own only part."""
    if not tokenizer.encode([text], prefix, limit)[1][0]:
        return [text]
    offsets = tokenizer.offsets(text)
    step = max(1, limit - tokenizer.special_overhead(prefix) - _SPARE)
    edges = [0, *(offsets[first][0] for first in range(step, len(offsets), step)), len(text)]
    # Tokens of one character share their start: an edge that comes again makes no window.
    return [text[first:last] for first, last in pairwise(edges) if first < last]


def window_rankings(
    queries: Sequence[Encoded], windows: Float32Array, starts: Int64Array, depth: int = DEPTH
) -> dict[str, Rankings]:
    """Dense rankings of documents by their windows: `windows` is `[W, D]`, document n has those from `starts[n]` on.

    `windows:mean` scores the normalised mean of a document's vectors, `windows:best` the best of their scores.
    """
    sums = np.add.reduceat(windows, starts, axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    means: Float32Array = (sums / np.where(norms > 0, norms, 1)).astype(np.float32)
    found: dict[str, list[Rankings]] = {MEAN: [], BEST: []}
    for block in queries:
        assert block.dense is not None  # noqa: S101
        rows = max(1, _BLOCK_BYTES // (4 * len(windows)))
        for first in range(0, len(block), rows):
            dense = block.dense[first : first + rows]
            found[MEAN].append(_ranked(dense @ means.T, depth))
            found[BEST].append(_ranked(np.maximum.reduceat(dense @ windows.T, starts, axis=1), depth))
    return {name: joined(parts) for name, parts in found.items()}


def _ranked(scores: Float32Array, depth: int) -> Rankings:
    best = Best(len(scores), depth)
    best.add(scores, 0)
    return best.rankings()
