"""Exact evaluation of one model on one BEIR-layout folder: every signal alone and the weighted sum.

nDCG@10 with binary gains (Jarvelin and Kekalainen 2002), over `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`.
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
from m3core.evaluate.search import Best
from m3core.fusion import Weights
from m3core.types import Float32Array, Float64Array, Signal

if TYPE_CHECKING:
    from m3core.encoder import Encoder

# The paper's weights for MIRACL.
MIRACL_WEIGHTS = Weights(dense=1.0, lexical=0.3, multi=1.0)


@dataclass(frozen=True)
class ScoredSet:
    """Scores `[Q, N]` of each signal on one set, and the indices of the relevant documents of each query."""

    signals: Mapping[Signal, Float32Array]
    relevant: Sequence[set[int]]

    def fused(self, weights: Weights) -> Float32Array:
        """Weighted sum of the raw scores, `[Q, N]`."""
        parts = [np.float32(weights.of(signal)) * matrix for signal, matrix in self.signals.items()]
        total: Float32Array = np.sum(parts, axis=0)
        return total

    def ndcg(self, weights: Weights = MIRACL_WEIGHTS) -> dict[str, float]:
        """nDCG@10 of each signal and of the sum."""
        runs = {signal.value: matrix for signal, matrix in self.signals.items()} | {"fused": self.fused(weights)}
        return {name: round(mean_ndcg(scores, self.relevant), 4) for name, scores in runs.items()}


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
    gains = [{place[doc_id] for doc_id in relevant[query_id] if doc_id in place} for query_id, _ in queries]
    return ScoredSet({signal: matrix(asked, passages) for signal, matrix in MATRICES.items()}, gains)


def mean_ndcg(scores: Float32Array, relevant: Sequence[set[int]], k: int = 10) -> float:
    """Mean nDCG@k of score rows `[Q, N]` against the indices of relevant documents; ties go to the lower index."""
    gains = [dict.fromkeys(wanted, 1) for wanted in relevant]
    return float(np.mean(ndcg_rows(scores, gains, k)))


def ndcg_rows(scores: Float32Array, gains: Sequence[Mapping[int, int]], k: int = 10) -> Float64Array:
    """nDCG@k of each score row `[Q, N]` against the gain of each relevant document's index: `[Q]`; see `mean_ndcg`."""
    best = Best(len(scores), k)
    best.add(scores, 0)
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
