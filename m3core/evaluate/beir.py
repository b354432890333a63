"""Exact evaluation of one model on one BEIR-layout folder: every signal alone and the weighted sum.

nDCG@10 with binary gains (Jarvelin and Kekalainen 2002), over `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3core.fusion import Weights
from m3core.types import Encoded, Float32Array, Signal

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
    return ScoredSet({signal: matrix(asked, passages) for signal, matrix in _MATRICES.items()}, gains)


def mean_ndcg(scores: Float32Array, relevant: Sequence[set[int]], k: int = 10) -> float:
    """Mean nDCG@k of score rows `[Q, N]` against the indices of relevant documents; ties go to the lower index."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    values = []
    for row, wanted in zip(scores, relevant, strict=True):
        top = np.argsort(-row, kind="stable")[:k]
        gain = sum(float(discounts[rank]) for rank, index in enumerate(top.tolist()) if index in wanted)
        ideal = float(discounts[: min(len(wanted), k)].sum())
        values.append(gain / ideal if ideal else 0.0)
    return float(np.mean(values))


def dense_matrix(queries: Encoded, passages: Encoded) -> Float32Array:
    """All dense scores, `[Q, N]`."""
    assert queries.dense is not None and passages.dense is not None  # noqa: S101, PT018
    matrix: Float32Array = queries.dense @ passages.dense.T
    return matrix


def lexical_matrix(queries: Encoded, passages: Encoded) -> Float32Array:
    """All lexical scores, `[Q, N]`, through an inverted index of the passages."""
    assert queries.lexical is not None and passages.lexical is not None  # noqa: S101, PT018
    owner = np.repeat(np.arange(len(passages)), np.diff(passages.lexical.indptr))
    order = np.argsort(passages.lexical.ids, kind="stable")
    ids, owner, weights = passages.lexical.ids[order], owner[order], passages.lexical.weights[order]
    scores = np.zeros((len(queries), len(passages)), dtype=np.float32)
    for i in range(len(queries)):
        for token, weight in zip(*queries.lexical.row(i), strict=True):
            hits = slice(*np.searchsorted(ids, [token, token + np.uint32(1)]))
            scores[i, owner[hits]] += weight * weights[hits]
    return scores


def multi_matrix(queries: Encoded, passages: Encoded) -> Float32Array:
    """All MaxSim scores (mean over query vectors), `[Q, N]`."""
    assert queries.multi is not None and passages.multi is not None  # noqa: S101, PT018
    starts = passages.multi.offsets[:-1]
    filled = np.diff(passages.multi.offsets) > 0
    scores = np.zeros((len(queries), len(passages)), dtype=np.float32)
    for i in range(len(queries)):
        products = queries.multi.row(i) @ passages.multi.values.T
        best = np.maximum.reduceat(products, starts[filled], axis=1)
        scores[i, filled] = best.mean(axis=0)
    return scores


_Matrix = Callable[[Encoded, Encoded], npt.NDArray[np.float32]]
_MATRICES: Mapping[Signal, _Matrix] = {
    Signal.DENSE: dense_matrix,
    Signal.LEXICAL: lexical_matrix,
    Signal.MULTI: multi_matrix,
}


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


__all__ = ["ScoredSet", "dense_matrix", "lexical_matrix", "mean_ndcg", "multi_matrix", "score_folder"]
