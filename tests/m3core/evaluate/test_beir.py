"""nDCG against its definition, a folder end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from m3core import Encoder
from m3core.evaluate.beir import ndcg_rows, score_folder
from m3core.evaluate.matrices import dense_matrix, lexical_matrix, multi_matrix

_PASSAGES = ["the key of the desk", "travel by night train", "", "refunded within thirty days", "the desk at nine"]
_QUERIES = ["key desk", "night", "days refunded", ""]


def test_ndcg_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
    # First query: relevant at ranks 2 and 3 of two; second: the only relevant one is last of four.
    ideal = 1 + 1 / math.log2(3)
    expected = [(1 / math.log2(3) + 1 / math.log2(4)) / ideal, 1 / math.log2(5)]
    assert ndcg_rows(scores, [{1: 1, 2: 1}, {0: 1}]) == pytest.approx(expected)


def test_a_higher_judgement_weighs_more_and_counts_in_the_ideal_order() -> None:
    scores = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    gained = 1 + 3 / math.log2(4)
    assert ndcg_rows(scores, [{0: 1, 2: 3}]) == pytest.approx([gained / (3 + 1 / math.log2(3))])
    assert ndcg_rows(scores, [{}]) == pytest.approx([0.0])


def test_a_beir_folder_is_scored_as_its_texts_are(tiny_model: Path, tmp_path: Path) -> None:
    corpus = [{"_id": f"d{i}", "title": "desk", "text": text or "nothing"} for i, text in enumerate(_PASSAGES)]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(_QUERIES[:3])] + [{"_id": "q9", "text": "x"}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td4\t1\nq0\td0\t1\nq1\td1\t1\nq1\td2\t0\nq2\td3\t1\n"
    )
    encoder = Encoder.load(tiny_model)
    asked = encoder.encode(_QUERIES[:2], "query")
    passages = encoder.encode([f"desk\n{row['text']}" for row in corpus])
    dense, lexical, multi = (matrix(asked, passages) for matrix in (dense_matrix, lexical_matrix, multi_matrix))
    gains = [{0: 1, 4: 1}, {1: 1}]
    assert score_folder(encoder, tmp_path, max_queries=2).ndcg() == {
        "dense": round(ndcg_rows(dense, gains).mean(), 4),
        "lexical": round(ndcg_rows(lexical, gains, positive=True).mean(), 4),
        "multi": round(ndcg_rows(multi, gains).mean(), 4),
        "fused": round(ndcg_rows(dense + np.float32(0.3) * lexical + multi, gains).mean(), 4),
    }
