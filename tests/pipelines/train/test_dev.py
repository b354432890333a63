from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from m3core import Encoder, scoring
from m3core.errors import RefusedError
from m3core.fusion import Weights
from m3core.train.examples import Row
from pipelines.train.dev import DevSets, refuse_shared
from tests.pipelines.train.conftest import Write


def test_shared_passages_and_questions_are_named_however_they_are_spaced(write: Write, here: Path) -> None:
    (here / "set").mkdir()
    corpus = [
        {"_id": "d1", "title": "Keys", "text": "the  key\nis here"},
        {"_id": "d2", "text": "a desk"},
        {"_id": "d3", "text": "train"},
    ]
    write("set/corpus.jsonl", corpus)
    write("set/queries.jsonl", [{"_id": "q1", "text": "who"}, {"_id": "q2", "text": "what"}])
    (here / "set" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n")
    sets = DevSets.read([here / "set"], 10)
    rows = [
        Row("who ", ("other",), place="a:1"),
        Row("why", ("the key is here",), place="a:2"),
        Row("how", ("other",), ("a desk",), place="a:3"),
    ]
    shared = sets.shared_with(rows)
    assert sorted(shared) == ["set: document d1 = a:2", "set: document d2 = a:3", "set: query q1 = a:1"]
    with pytest.raises(RefusedError, match=r"3 texts of --dev are in the training data.*set: document d"):
        refuse_shared(shared)
    refuse_shared(sets.shared_with([Row("x", ("y",))]))


def test_figures_are_those_of_every_score_by_itself(tiny_model: Path, dev: Path) -> None:
    encoder = Encoder.load(tiny_model)
    sets = DevSets.read([dev, dev], 5)
    assert sets.names == ["dev", "dev#2"]
    weights = Weights(0.4, 0.2, 0.4)
    found = sets.figures(encoder, weights)["dev"]
    dataset = sets.sets[0]
    asked = [encoder.encode_query(query.text) for query in dataset.queries]
    assert len(asked) == 5
    passages = encoder.encode([document.text for document in dataset.documents])
    assert passages.dense is not None
    assert passages.lexical is not None
    assert passages.multi is not None
    gains: dict[str, list[float]] = {"dense": [], "lexical": [], "multi": [], "fused": []}
    for query, item in zip(asked, dataset.queries, strict=True):
        assert query.dense is not None
        assert query.lexical_ids is not None
        assert query.lexical_weights is not None
        assert query.multi is not None
        scores = {
            "dense": passages.dense @ query.dense,
            "lexical": np.array(
                [
                    scoring.lexical(query.lexical_ids, query.lexical_weights, *passages.lexical.row(i))
                    for i in range(len(passages))
                ]
            ),
            "multi": np.array([scoring.max_sim(query.multi, passages.multi.row(i)) for i in range(len(passages))]),
        }
        scores["fused"] = 0.4 * scores["dense"] + 0.2 * scores["lexical"] + 0.4 * scores["multi"]
        wanted = dataset.document_ids.index(f"d{item.id[1:]}")
        for name, values in scores.items():
            # Of equal scores the lower place comes first.
            rank = int((values > values[wanted]).sum() + (values[:wanted] == values[wanted]).sum())
            gains[name].append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    assert found == {name: pytest.approx(np.mean(values), abs=2e-4) for name, values in gains.items()}
