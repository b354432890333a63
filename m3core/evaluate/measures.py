"""The figures of a run, by trec_eval's own code through pytrec_eval: nDCG@10, MRR@10, Recall@100, Success@1, MAP.

Gains are the judgements themselves (linear, as in trec_eval); a judgement of 1 or more counts as relevant. trec_eval
orders by score (float32), then by descending id, whatever order it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from m3core.errors import MissingExtraError
from m3core.types import Float64Array

# Our name -> how trec_eval is asked, and the name of its answer.
_ASKED = {
    "ndcg@10": ("ndcg_cut.10", "ndcg_cut_10"),
    "mrr@10": ("recip_rank", "recip_rank"),
    "recall@100": ("recall.100", "recall_100"),
    "success@1": ("success.1", "success_1"),
    "map": ("map", "map"),
}
MEASURES = tuple(_ASKED)
MAIN_MEASURE = MEASURES[0]
# trec_eval knows no reciprocal rank with a cut: it is given the first ten alone.
_CUT = {"mrr@10": 10}

# Query id -> document id -> judgement.
Judgements = Mapping[str, Mapping[str, int]]
# Query ids with the scores of the documents found, in the order of the figures.
Run = Sequence[tuple[str, Mapping[str, float]]]


def require() -> None:
    """Raise MissingExtraError without pytrec_eval: worth knowing before a corpus is encoded."""
    try:
        import pytrec_eval  # noqa: F401
    except ImportError:
        raise MissingExtraError("figures need pytrec_eval", "pip install 'threefold[eval]'") from None


def measure(judgements: Judgements, run: Run) -> dict[str, Float64Array]:
    """Every measure for each query of `run`: `[Q]` each. A query that found nothing has 0 throughout.

    Raises MissingExtraError without pytrec_eval.
    """
    require()
    from pytrec_eval import RelevanceEvaluator

    judged = {query: dict(judgements[query]) for query, _ in run}
    figures = {}
    for cut in (None, *_CUT.values()):
        names = [name for name in MEASURES if _CUT.get(name) == cut]
        evaluator = RelevanceEvaluator(judged, {_ASKED[name][0] for name in names})
        told = evaluator.evaluate({query: _first(scores, cut) for query, scores in run if scores})
        for name in names:
            values = [told[query][_ASKED[name][1]] if query in told else 0.0 for query, _ in run]
            figures[name] = np.asarray(values, dtype=np.float64)
    return {name: figures[name] for name in MEASURES}


def _first(scores: Mapping[str, float], cut: int | None) -> dict[str, float]:
    """The best `cut` documents by trec_eval's order."""
    if cut is None:
        return dict(scores)
    ordered = sorted(scores, key=lambda each: (np.float32(scores[each]), each), reverse=True)
    return {each: scores[each] for each in ordered[:cut]}
