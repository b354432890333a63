"""An evaluation end to end on a tiny model: figures equal pytrec_eval over a brute-force search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from m3core import Encoder, scoring
from m3core.errors import UsageError
from m3core.evaluate.measures import MEASURES
from m3core.fusion import Weights
from m3core.types import Signal
from pipelines.encode.progress import Silent
from pipelines.encode.reading import Totals
from pipelines.evaluate import evaluation as module
from pipelines.evaluate.comparing import compare_saved, compare_within, read_saved
from pipelines.evaluate.dataset import Dataset, read_dataset
from pipelines.evaluate.document import Findings, as_json
from pipelines.evaluate.evaluation import Evaluation, Settings, evaluate
from pipelines.evaluate.runs import mixes, parse_weights
from pipelines.evaluate.trec import trec_files
from tests.pipelines.evaluate.folders import CORPUS, write_folder

_TREC_NAMES = {"ndcg@10": "ndcg_cut_10", "recall@100": "recall_100", "success@1": "success_1", "map": "map"}


def _quiet(totals: Totals) -> Silent:
    return Silent()


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    long = {"_id": "d6", "text": "the desk at nine " * 120}
    return read_dataset(write_folder(tmp_path_factory.mktemp("data") / "handbook", corpus=[*CORPUS, long]))


@pytest.fixture(scope="module")
def found(encoder: Encoder, dataset: Dataset) -> Evaluation:
    return evaluate(encoder, dataset, Settings(weights=Weights(1, 0.3, 1), keep=True), _quiet)


def _brute_force(encoder: Encoder, dataset: Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """Query -> document -> score of each signal and of the sum 1, .3, 1, one pair at a time."""
    queries = encoder.encode([query.text for query in dataset.queries], "query")
    passages = encoder.encode([document.text for document in dataset.documents], "passage")
    assert queries.dense is not None
    assert passages.dense is not None
    assert queries.lexical is not None
    assert passages.lexical is not None
    assert queries.multi is not None
    assert passages.multi is not None
    runs: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ("dense", "lexical", "multi", "fused:given")}
    for i, query in enumerate(dataset.queries):
        dense = scoring.dense(queries.dense[i], passages.dense)
        for name in runs:
            runs[name][query.id] = {}
        for j, document in enumerate(dataset.documents):
            lexical = scoring.lexical(*queries.lexical.row(i), *passages.lexical.row(j))
            multi = scoring.max_sim(queries.multi.row(i), passages.multi.row(j))
            runs["dense"][query.id][document.id] = float(dense[j])
            runs["multi"][query.id][document.id] = multi
            runs["fused:given"][query.id][document.id] = (float(dense[j]) + 0.3 * lexical + multi) / 2.3
            if lexical > 0:
                runs["lexical"][query.id][document.id] = lexical
    return runs


def test_figures_equal_pytrec_eval_over_brute_force(encoder: Encoder, dataset: Dataset, found: Evaluation) -> None:
    for name, run in _brute_force(encoder, dataset).items():
        oracle = pytrec_eval.RelevanceEvaluator(
            {query: dict(judged) for query, judged in dataset.judgements.items()},
            {"ndcg_cut.10", "recall.100", "success.1", "map", "recip_rank"},
        ).evaluate(run)
        for row, query in enumerate(dataset.queries):
            told = dict(zip(MEASURES, found.runs[name].values[row].tolist(), strict=True))
            expected = {ours: oracle.get(query.id, {}).get(theirs, 0.0) for ours, theirs in _TREC_NAMES.items()}
            assert {ours: told[ours] for ours in expected} == pytest.approx(expected), (name, query.id)
            assert told["mrr@10"] == pytest.approx(oracle.get(query.id, {}).get("recip_rank", 0.0))
            scores = found.runs[name].found(row)
            assert scores == pytest.approx(run[query.id], rel=1e-5, abs=1e-5)
            assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_every_run_is_there(found: Evaluation) -> None:
    presets = ["balanced", "long-documents", "cross-lingual", "dense-only"]
    assert list(found.runs) == [
        "dense",
        "lexical",
        "multi",
        *(f"fused:{name}" for name in presets),
        "fused:given",
        "rrf",
        "bm25",
    ]
    assert (found.runs["fused:dense-only"].values == found.runs["dense"].values).all()


def test_one_signal_alone_needs_no_heads_of_the_others(tiny_model: Path, dataset: Dataset) -> None:
    encoder = Encoder.load(tiny_model, signals=[Signal.DENSE], device="cpu", precision="float32")
    assert list(evaluate(encoder, dataset, Settings(signals=(Signal.DENSE,)), _quiet).runs) == ["dense", "bm25"]


def test_what_would_not_fit_in_memory_is_refused_first(
    encoder: Encoder, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SEARCH_BYTES", 1000)
    with pytest.raises(UsageError, match=r"4 queries x 6 documents need 1,344 bytes") as caught:
        evaluate(encoder, dataset, Settings(), _quiet)
    assert "--depth 100" in caught.value.remedy


def test_trec_files_give_the_same_figures(found: Evaluation) -> None:
    written = {name: list(rows) for name, rows in trec_files(found)}
    qrels = pytrec_eval.parse_qrel(written.pop("qrels.txt"))
    assert set(written) >= {"dense.run", "fused-given.run", "bm25.run"}
    for name, run in found.runs.items():
        oracle = pytrec_eval.RelevanceEvaluator(qrels, {"map", "ndcg_cut.10"}).evaluate(
            pytrec_eval.parse_run(written[f"{name.replace(':', '-')}.run"])
        )
        for row, query in enumerate(found.dataset.queries):
            told = dict(zip(MEASURES, run.values[row].tolist(), strict=True))
            assert oracle.get(query.id, {"map": 0.0})["map"] == pytest.approx(told["map"])


def test_trec_files_refuse_ids_with_blanks(found: Evaluation) -> None:
    queries = (replace(found.dataset.queries[0], id="q 1"), *found.dataset.queries[1:])
    with pytest.raises(UsageError, match="the id 'q 1' has white space"):
        list(trec_files(replace(found, dataset=replace(found.dataset, queries=queries))))


def test_the_json_document(found: Evaluation) -> None:
    document = as_json([Findings(found)], None, with_queries=False)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["dataset"], document["queries"], document["documents"]) == ("handbook", 4, 6)
    run = document["runs"]["fused:balanced"]
    assert set(run) == {*MEASURES, "interval"}
    for name in MEASURES:
        low, high = run["interval"][name]
        assert low <= run[name] <= high
    assert document["languages"]["de"]["queries"] == 1
    assert set(document["languages"]) == {"en", "de"}
    assert document["languages"]["de"]["runs"]["dense"]["map"] == round(float(found.runs["dense"].values[2, 4]), 4)
    assert document["truncated"]["documents"] == {"count": 1, "of": 6, "limit": 256}
    assert document["truncated"]["queries"] == {"count": 0, "of": 4, "limit": None}
    # All six documents come up for each query; judged are 2, 2, 1 and 1 of them.
    assert document["qrels"]["judged@10"]["dense"] == 0.25
    assert document["problems"] == []


def test_several_sets_are_a_list_and_a_mean(found: Evaluation) -> None:
    other = replace(found, dataset=replace(found.dataset, name="second").first_queries(2))
    half = {name: replace(run, values=run.values[:2]) for name, run in found.runs.items() if name != "fused:given"}
    other = replace(other, runs=half)
    document = as_json([Findings(found), Findings(other)], None, with_queries=False)
    assert [part["dataset"] for part in document["datasets"]] == ["handbook", "second"]
    assert "fused:given" not in document["mean"]["runs"]
    expected = (found.runs["multi"].values.mean(axis=0) + half["multi"].values.mean(axis=0)) / 2
    assert list(document["mean"]["runs"]["multi"].values()) == pytest.approx(expected.tolist(), abs=1e-4)


def _save(path: Path, found: Evaluation) -> Path:
    path.write_text(json.dumps(as_json([Findings(found)], None, with_queries=True)), encoding="utf-8")
    return path


def test_a_saved_evaluation_compares_by_query(found: Evaluation, tmp_path: Path) -> None:
    worse = {name: replace(run, values=np.round(run.values * 0.5, 6)) for name, run in found.runs.items()}
    saved = read_saved(_save(tmp_path / "before.json", replace(found, runs=worse)))["handbook"]
    comparisons = {each.run: each for each in compare_saved(found, saved)}
    assert set(comparisons) == set(found.runs)
    multi = comparisons["multi"]
    assert multi.reference == "before:multi"
    assert multi.queries == 4
    assert multi.main.mean == pytest.approx(found.runs["multi"].means["ndcg@10"] / 2, abs=1e-5)
    fewer = replace(found, dataset=found.dataset.first_queries(2))
    fewer = replace(fewer, runs={name: replace(run, values=run.values[:2]) for name, run in found.runs.items()})
    assert {each.queries for each in compare_saved(fewer, saved)} == {2}


def test_a_saved_evaluation_of_other_data_is_refused(found: Evaluation, tmp_path: Path) -> None:
    saved = read_saved(_save(tmp_path / "before.json", found))["handbook"]
    with pytest.raises(UsageError, match="of other judgements or documents"):
        compare_saved(found, replace(saved, digest="0" * 16))
    with pytest.raises(UsageError, match="no query is in both"):
        compare_saved(found, replace(saved, ids=["a", "b", "c", "d"]))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"dataset": "x", "per_query": {"ids": [], "runs": {"dense": 1}}}']
)
def test_what_is_no_saved_evaluation_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="no JSON document of m3 eval with figures per query"):
        read_saved(path)


def test_a_document_without_figures_per_query_is_refused(found: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "short.json"
    path.write_text(json.dumps(as_json([Findings(found)], None, with_queries=False)))
    with pytest.raises(UsageError) as caught:
        read_saved(path)
    assert "--per-query" in caught.value.remedy


def test_runs_compare_within_one_evaluation(found: Evaluation) -> None:
    comparisons = {each.run: each for each in compare_within(found, "bm25")}
    assert "bm25" not in comparisons
    difference = found.runs["rrf"].means["map"] - found.runs["bm25"].means["map"]
    assert comparisons["rrf"].differences["map"].mean == pytest.approx(difference)
    with pytest.raises(UsageError, match="neither a run nor a file"):
        compare_within(found, "bm52")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("dense=1,lexical=.3,multi=1", (1, 0.3, 1)), (" multi = 2 ", (0, 0, 2)), ("lexical=1e-1,dense=0", (0, 0.1, 0))],
)
def test_weights_are_read(text: str, expected: tuple[float, float, float]) -> None:
    assert parse_weights(text) == Weights(*expected)


@pytest.mark.parametrize(
    "text", ["", "dense", "dense=x", "dence=1", "dense=0", "dense=-1,multi=1", "dense=nan", "1,2,3"]
)
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_weights(text)


def test_presets_share_out_what_the_missing_signal_had() -> None:
    presets: Mapping[str, Weights] = {"balanced": Weights(0.4, 0.2, 0.4), "words": Weights(0, 0, 1)}
    runs = mixes((Signal.DENSE, Signal.LEXICAL), presets, None)
    assert list(runs) == ["dense", "lexical", "fused:balanced"]
    assert runs["fused:balanced"] == pytest.approx({Signal.DENSE: 2 / 3, Signal.LEXICAL: 1 / 3})
    with pytest.raises(UsageError):
        mixes((Signal.DENSE,), presets, Weights(0, 1, 0))


def test_windows_find_what_truncation_cuts_off(encoder: Encoder, tmp_path: Path) -> None:
    filler = "the desk at nine " * 70
    corpus = [
        {"_id": "hidden", "text": filler + "travel by night train is refunded within thirty days"},
        {"_id": "plain", "text": filler},
    ]
    queries = [{"_id": "q", "text": "travel by night train is refunded within thirty days"}]
    dataset = read_dataset(write_folder(tmp_path / "long", corpus, queries, [("q", "hidden", 1)]))
    runs = evaluate(encoder, dataset, Settings(windows=True), _quiet).runs
    dense, best = runs["dense"].found(0), runs["windows:best"].found(0)
    # Both begin with the same 256 tokens: truncated they are one text.
    assert dense["hidden"] == pytest.approx(dense["plain"], abs=1e-6)
    assert best["hidden"] > dense["hidden"] + 1e-3
    assert set(runs["windows:mean"].found(0)) == {"hidden", "plain"}
