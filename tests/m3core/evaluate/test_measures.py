"""Our figures equal pytrec_eval's on random runs, and the definitions by hand; ties fall as trec_eval has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from m3core.evaluate.measures import MEASURES, measure
from m3core.evaluate.search import Best

# Ids of several lengths and scripts: their order is that of their UTF-8.
_IDS = ["d1", "d10", "d2", "D3", "é", "z", "文書", "d-4", "d_5", "\U0001f600"]
_PLACED = sorted(_IDS, reverse=True)
_RUNS = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0]), min_size=len(_IDS), max_size=len(_IDS)),
    min_size=1,
    max_size=4,
)
_GAINS = st.lists(st.integers(-1, 3), min_size=len(_IDS), max_size=len(_IDS)).filter(lambda gains: max(gains) > 0)


def _order(run: list[float], depth: int = len(_IDS)) -> list[str]:
    """The ids as the exact search ranks them."""
    best = Best(1, depth)
    best.add(np.asarray([run], np.float32), 0)
    return [_PLACED[place] for place in best.rankings().row(0)]


def _by_definition(order: list[str], gains: dict[str, int]) -> dict[str, float]:
    """Textbook formulas over an order."""
    relevant = [gains[each] > 0 for each in order]
    total = sum(gain > 0 for gain in gains.values())
    discounted = sum(max(gains[each], 0) / math.log2(rank + 1) for rank, each in enumerate(order[:10], 1))
    ideal = sum(
        gain / math.log2(rank + 1) for rank, gain in enumerate(sorted(gains.values())[::-1][:10], 1) if gain > 0
    )
    precisions = [sum(relevant[:rank]) / rank for rank, hit in enumerate(relevant, 1) if hit]
    return {
        "ndcg@10": discounted / ideal,
        "mrr@10": next((1 / rank for rank, hit in enumerate(relevant[:10], 1) if hit), 0.0),
        "recall@100": sum(relevant[:100]) / total,
        "success@1": float(relevant[0]),
        "map": sum(precisions) / total,
    }


@given(_RUNS, st.lists(_GAINS, min_size=4, max_size=4), st.integers(1, len(_IDS)))
def test_figures_follow_from_the_order_of_the_exact_search(
    runs: list[list[float]], gains: list[list[int]], depth: int
) -> None:
    judgements = {f"q{i}": dict(zip(_PLACED, row, strict=True)) for i, row in enumerate(gains)}
    orders = [_order(run, depth) for run in runs]
    scores = [
        (f"q{i}", {each: run[_PLACED.index(each)] for each in order})
        for i, (run, order) in enumerate(zip(runs, orders, strict=True))
    ]
    figures = measure(judgements, scores)
    assert tuple(figures) == MEASURES
    for row, order in enumerate(orders):
        expected = _by_definition(order, judgements[f"q{row}"])
        for name in MEASURES:
            assert figures[name][row] == pytest.approx(expected[name]), name


def test_random_runs_of_many_documents_equal_pytrec_eval() -> None:
    rng = np.random.default_rng(1)
    ids = [f"doc-{number}" for number in range(400)]
    judgements = {f"q{q}": {ids[p]: int(rng.integers(0, 3)) for p in rng.choice(400, 30)} for q in range(20)}
    run = []
    for query in judgements:
        found = rng.choice(400, 300, replace=False)
        run.append((query, {ids[p]: float(np.float32(rng.integers(0, 50) / 7)) for p in found}))
    figures = measure(judgements, run)
    names = {"ndcg@10": "ndcg_cut_10", "recall@100": "recall_100", "success@1": "success_1", "map": "map"}
    oracle = pytrec_eval.RelevanceEvaluator(judgements, set(pytrec_eval.supported_measures)).evaluate(dict(run))
    for row, (query, _) in enumerate(run):
        for name, other in names.items():
            assert figures[name][row] == pytest.approx(oracle[query][other], abs=1e-9)
        whole = oracle[query]["recip_rank"]
        assert figures["mrr@10"][row] == pytest.approx(whole if whole >= 0.1 else 0.0)


def test_a_query_that_found_nothing_counts_as_zero() -> None:
    figures = measure({"a": {"d": 1}, "b": {"d": 1}}, [("a", {}), ("b", {"d": 1.0})])
    assert {name: values.tolist() for name, values in figures.items()} == {key: [0.0, 1.0] for key in MEASURES}
    assert measure({"a": {"d": 1}}, [("a", {})])["map"].tolist() == [0.0]


def test_ranks_beyond_the_cut_do_not_count() -> None:
    scores = {f"d{number:03}": float(-number) for number in range(150)}
    figures = measure({"q": {"d010": 1, "d099": 1, "d100": 1}}, [("q", scores)])
    assert figures["ndcg@10"][0] == 0.0
    assert figures["mrr@10"][0] == 0.0
    assert figures["recall@100"][0] == pytest.approx(2 / 3)
    assert figures["map"][0] == pytest.approx((1 / 11 + 2 / 100 + 3 / 101) / 3)
