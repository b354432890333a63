"""BM25 over the model's own tokens: the baseline that needs no training, through bm25s.

Lucene's variant (Kamphuis et al., ECIR 2020): the sum over the query's tokens of ln(1 + (N - n + .5) / (n + .5)) times
tf / (tf + k1 (1 - b + b l / mean l)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3core.errors import MissingExtraError
from m3core.evaluate.search import DEPTH, Best, Rankings, joined
from m3core.tokenize import TextTokenizer

# Anserini's defaults, those of published baselines.
K1, B = 0.9, 0.4
_BLOCK_BYTES = 64 << 20
# No text is cut: BM25 has no limit.
_WHOLE = 1 << 40


def token_ids(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole texts, without prefix and specials."""
    return [ids[1:-1] for ids in tokenizer.encode(texts, "", _WHOLE)[0]]


def bm25(queries: Sequence[Sequence[int]], documents: Sequence[Sequence[int]], depth: int = DEPTH) -> Rankings:
    """The best documents of each query; both are token ids. A document without a shared token is no hit.

    Raises MissingExtraError without bm25s.
    """
    try:
        from bm25s import BM25
    except ImportError:
        raise MissingExtraError("the BM25 run needs bm25s", "pip install 'threefold[eval]'") from None
    columns = {token: column for column, token in enumerate(sorted({token for row in documents for token in row}))}
    if not columns:
        return Rankings(np.full((len(queries), 0), -1, np.int64), np.zeros((len(queries), 0), np.float32))
    index = BM25(k1=K1, b=B, method="lucene")
    index.index(([[columns[token] for token in row] for row in documents], columns), False, show_progress=False)
    rows = max(1, _BLOCK_BYTES // (4 * len(documents)))
    parts = []
    for first in range(0, len(queries), rows):
        block = [[columns[token] for token in row if token in columns] for row in queries[first : first + rows]]
        best = Best(len(block), depth)
        best.add(np.stack([index.get_scores_from_ids(row) for row in block]).astype(np.float32), 0, positive=True)
        parts.append(best.rankings())
    return joined(parts)
