"""Exact evaluation of one model on one BEIR-layout folder: every signal alone and the weighted sum.

nDCG@10 (Jarvelin and Kekalainen 2002) over `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3core.evaluate.matrices import MATRICES
from m3core.evaluate.search import Best, Mix, is_lexical, mixed
from m3core.fusion import Weights
from m3core.types import Float32Array, Float64Array, Signal

if TYPE_CHECKING:
    from m3core.encoder import Encoder

# The paper's weights for MIRACL.
MIRACL_WEIGHTS = Weights(dense=1.0, lexical=0.3, multi=1.0)


@dataclass(frozen=True)
class ScoredSet:
    """Scores `[Q, N]` of each signal on one set, and for each query the gain of each relevant document's index."""

    signals: Mapping[Signal, Float32Array]
    gains: Sequence[Mapping[int, int]]

    def rows(self, mix: Mix) -> Float64Array:
        """nDCG@10 of the weighted sum for each query: `[Q]`."""
        return ndcg_rows(mixed(self.signals, mix), self.gains, positive=is_lexical(mix))

    def ndcg(self, weights: Weights = MIRACL_WEIGHTS) -> dict[str, float]:
        """Mean nDCG@10 of each signal and of the sum."""
        mixes: dict[str, Mix] = {signal.value: {signal: 1.0} for signal in self.signals}
        mixes["fused"] = weights.normalised()
        return {name: round(float(self.rows(mix).mean()), 4) for name, mix in mixes.items()}


def score_folder(encoder: Encoder, folder: Path, max_queries: int) -> ScoredSet:
    """Exact scores of every document for the first `max_queries` queries of a BEIR-layout folder."""
    documents = [
        (row["_id"], f"{row.get('title') or ''}\n{row['text']}".strip()) for row in _rows(folder / "corpus.jsonl")
    ]
    relevant = _qrels(folder / "qrels.tsv")
    queries = [(row["_id"], row["text"]) for row in _rows(folder / "queries.jsonl") if row["_id"] in relevant]
    queries = queries[:max_queries]
    passages = encoder.encode([text for _, text in documents], "passage")
    asked = encoder.encode([text for _, text in queries], "query")
    place = {doc_id: index for index, (doc_id, _) in enumerate(documents)}
    gains = [{place[doc_id]: 1 for doc_id in relevant[query_id] if doc_id in place} for query_id, _ in queries]
    return ScoredSet({signal: matrix(asked, passages) for signal, matrix in MATRICES.items()}, gains)


def ndcg_rows(
    scores: Float32Array, gains: Sequence[Mapping[int, int]], k: int = 10, *, positive: bool = False
) -> Float64Array:
    """nDCG@k of each score row `[Q, N]` against the gain of each relevant document's index: `[Q]`.

    Ties go to the lower index; with `positive` scores of 0 or less are no hits.
    """
    best = Best(len(scores), k)
    best.add(scores, 0, positive=positive)
    found = best.rankings()
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    values = np.zeros(len(scores))
    for query, wanted in enumerate(gains):
        gain = sum(discounts[rank] * wanted.get(index, 0) for rank, index in enumerate(found.row(query)))
        ideal = sum(discount * most for discount, most in zip(discounts, sorted(wanted.values())[::-1], strict=False))
        values[query] = gain / ideal if ideal else 0.0
    return values


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _qrels(path: Path) -> Mapping[str, set[str]]:
    relevant: dict[str, set[str]] = defaultdict(set)
    with path.open(encoding="utf-8") as file:
        for line in file:
            query_id, doc_id, score = line.rstrip("\n").split("\t")
            if score.isdigit() and int(score) > 0:
                relevant[query_id].add(doc_id)
    return relevant
