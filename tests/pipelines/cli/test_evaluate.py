"""`m3 eval` as a user calls it, on a tiny model."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from m3core import Encoder
from m3core.config.toml import toml_string
from tests.pipelines.cli.conftest import M3
from tests.pipelines.evaluate.folders import CORPUS, QRELS, lines, write_folder
from tests.tiny import make_tiny_model

_EXACT = ("--device", "cpu", "--precision", "float32")


class _Without:
    """A finder for which one package is not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *rest: object) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(name)


@pytest.fixture
def data(here: Path) -> Path:
    return write_folder(here / "handbook")


def test_the_table(data: Path, tiny_model: Path, m3: M3) -> None:
    ended = m3("eval", "--model", tiny_model, "--data", data, *_EXACT)
    assert ended.code == 0
    rows = ended.out.splitlines()
    assert rows[0].startswith("handbook · ")
    assert rows[0].endswith("4 queries (2 languages) · 5 documents")
    assert rows[1].split() == ["run", "nDCG@10", "MRR@10", "Recall@100", "Success@1", "MAP", "95", "%", "of", "nDCG@10"]
    assert [row.split()[0] for row in rows[2:11]] == [
        "dense",
        "lexical",
        "multi",
        "fused:balanced",
        "fused:long-documents",
        "fused:cross-lingual",
        "fused:dense-only",
        "rrf",
        "bm25",
    ]
    assert "handbook · nDCG@10 by language" in rows
    assert max(map(len, rows)) <= 100
    assert "\x1b" not in ended.out
    assert "handbook: 4 queries, 5 documents" in ended.err


def test_json_is_one_document_and_serves_a_later_comparison(data: Path, tiny_model: Path, m3: M3, here: Path) -> None:
    ended = m3("eval", "--model", tiny_model, "--data", data, "--json", "--per-query", *_EXACT)
    document = json.loads(ended.out)
    assert (document["schema_version"], document["dataset"], document["queries"]) == (1, "handbook", 4)
    (here / "before.json").write_text(ended.out)
    again = m3("eval", "--model", tiny_model, "--data", data, "--compare", "before.json", "--json", *_EXACT)
    comparisons = json.loads(again.out)["comparisons"]
    assert {each["run"] for each in comparisons} == set(document["runs"])
    assert all(each["ndcg@10"] == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0} for each in comparisons)
    other = write_folder(here / "other")
    refused = m3("eval", "--model", tiny_model, "--data", other, "--compare", "before.json", *_EXACT)
    assert refused.code == 2
    assert "that file has no data set 'other', only handbook" in refused.err


def test_files_are_written(data: Path, tiny_model: Path, m3: M3, here: Path) -> None:
    second = write_folder(here / "second$x_y")
    arguments = ["eval", "--model", tiny_model, "--data", data, "--data", second, *_EXACT, "--weights", "multi=1"]
    arguments += ["--markdown", "r.md", "--plot", "r.png", "--trec-dir", "trec", "--compare", "bm25"]
    ended = m3(*arguments)
    assert ended.code == 0
    assert "mean of 2 data sets" in ended.out
    text = (here / "r.md").read_text(encoding="utf-8")
    assert "| run | nDCG@10 |" in text
    assert "## mean of 2 data sets" in text
    picture = (here / "r.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 800
    assert height > 400
    assert sorted(path.name for path in (here / "trec").iterdir()) == ["handbook", "second$x_y"]
    assert len((here / "trec" / "handbook" / "dense.run").read_text().splitlines()) == 20
    assert (here / "trec" / "handbook" / "qrels.txt").read_text().count("\n") == len(QRELS)
    alone = m3("eval", "--model", tiny_model, "--data", data, *_EXACT, "--plot", "one.png")
    assert alone.code == 0
    assert (here / "one.png").stat().st_size > 10_000


def test_what_is_wrong_is_said(here: Path, tiny_model: Path, m3: M3) -> None:
    long = {"_id": "d6", "text": "the desk at nine " * 120}
    data = write_folder(here / "broken", corpus=[*CORPUS, CORPUS[0], long], qrels=[*QRELS, ("q9", "d1", 1)])
    ended = m3("eval", "--model", tiny_model, "--data", data, *_EXACT)
    assert ended.code == 0
    assert "1 of 6 documents (16.7%) were cut at 256 tokens" in ended.out
    assert "1 documents with an id that came before, left out: d1 (corpus.jsonl line 6)" in ended.out
    assert "1 judgements of a query that is not in the queries, left out: q9 (qrels.tsv line 8)" in ended.out


def test_weights_are_mined(data: Path, tiny_model: Path, m3: M3) -> None:
    ended = m3("eval", "--model", tiny_model, "--data", data, "--mine-weights", "--json", *_EXACT)
    mined = json.loads(ended.out)["mined"]
    assert sum(mined["weights"].values()) == pytest.approx(1)
    assert mined["beyond_noise"] is False
    assert mined["difference"] == pytest.approx(mined["held_out_ndcg@10"] - mined["preset_ndcg@10"], abs=2e-4)
    assert m3("eval", "--data", data, "--mine-weights", "--signals", "dense").code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--compare", "fused:balancd"), "--compare 'fused:balancd': neither a run nor a file"),
        (("--compare", "rrf", "--signals", "dense"), "--compare 'rrf': neither a run nor a file"),
        (("--mine-weights", "--max-queries", "1"), "--mine-weights with one query"),
    ],
)
def test_what_the_model_decides_is_told_before_it_encodes(
    tiny_model: Path, data: Path, m3: M3, arguments: tuple[str, ...], said: str
) -> None:
    ended = m3("eval", "--model", tiny_model, "--data", data, *arguments, *_EXACT)
    assert ended.code == 2
    assert said in ended.err
    # What is said once the encoding begins.
    assert "queries, " not in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--per-query",), "--per-query without --json"),
        (("--as", "a:b"), "--as without --through"),
        (("-c", "m3.toml"), "-c without --through"),
        (("--through", "--model", "m"), "--model and --through are both given"),
        (("--through", "--precision", "int8"), "--precision and --through are both given"),
        (("--markdown", "absent/r.md"), "the folder absent is not there"),
        (("--plot", "handbook"), "--plot handbook: it is a folder"),
        (("--trec-dir", "handbook/qrels.tsv"), "it is no folder"),
        (("--split", "test"), "has no such file"),
        (("--data", "elsewhere/handbook"), "2 folders are called 'handbook'"),
        (("--data", "absent"), "no such folder"),
        (("--weights", "dense:1"), "no such signal"),
        (("--depth", "5"), "--depth"),
        (("--long-documents", "--signals", "multi"), "--long-documents with multi alone"),
        (("--long-pooling", "mean"), "'mean' is none of mcls"),
    ],
)
def test_mistakes_are_told_before_any_work(
    data: Path, m3: M3, here: Path, arguments: tuple[str, ...], said: str
) -> None:
    write_folder(here / "elsewhere" / "handbook")
    ended = m3("eval", "--data", data, *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_windows_of_long_documents_are_runs_of_their_own(here: Path, tiny_model: Path, m3: M3) -> None:
    long = {"_id": "d6", "text": "the desk at nine " * 120}
    data = write_folder(here / "long", corpus=[*CORPUS, long])
    arguments = ("--signals", "dense", "--long-documents", "--compare", "dense", "--json")
    document = json.loads(m3("eval", "--model", tiny_model, "--data", data, *_EXACT, *arguments).out)
    assert list(document["runs"]) == ["dense", "windows:mean", "windows:best", "bm25"]
    assert [each["run"] for each in document["comparisons"]] == ["windows:mean", "windows:best", "bm25"]


@pytest.mark.parametrize(
    ("module", "said", "options"),
    [
        ("pytrec_eval", "figures need pytrec_eval", ()),
        ("bm25s", "the BM25 run needs bm25s", ()),
        ("matplotlib", "--plot needs matplotlib", ("--plot", "r.png")),
    ],
)
def test_a_missing_library_is_told_before_anything_is_encoded(
    data: Path,
    tiny_model: Path,
    m3: M3,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    said: str,
    options: tuple[str, ...],
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise AssertionError("a text was encoded")

    monkeypatch.setattr(Encoder, "stream", refused)
    monkeypatch.setattr(sys, "meta_path", [_Without(module), *sys.meta_path])
    for name in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    ended = m3("eval", "--model", tiny_model, "--data", data, *options, *_EXACT)
    assert ended.code == 2
    assert f"{said}. Remedy: pip install 'threefold[eval]'" in ended.err


def test_long_pooling_makes_other_vectors(data: Path, here: Path, m3: M3) -> None:
    model = make_tiny_model(here / "long", family="xlm-roberta", max_length=600, pooling="cls")
    command = ("eval", "--model", model, "--data", data, "--signals", "dense", "--json", *_EXACT)
    plain, pooled = (json.loads(m3(*command, *more).out) for more in ((), ("--long-pooling", "mcls")))
    assert plain["fingerprint"] != pooled["fingerprint"]
    assert plain["model"] == pooled["model"] == "long"


def test_without_data_the_option_is_named(m3: M3, here: Path) -> None:
    ended = m3("eval", "--json")
    assert ended.code == 2
    assert "--data" in json.loads(ended.out)["error"]["message"]


@pytest.fixture
def collection(here: Path, tiny_model: Path, m3: M3) -> Path:
    """The data set's documents, ingested under their own ids, and one that the data set does not have."""
    rows = [
        {"doc_id": row["_id"], "title": row.get("title") or "", "text": row["text"], "acl": ["everyone"]}
        for row in [*CORPUS, {"_id": "extra", "text": "The key and the cryostat."}]
    ]
    (here / "docs.jsonl").write_text(lines(rows), encoding="utf-8")
    config = f"""
[collection]
name = "handbook"
[model]
name = {toml_string(str(tiny_model))}
device = "cpu"
precision = "float32"
[sources.docs]
kind = "jsonl"
path = "docs.jsonl"
"""
    (here / "m3.toml").write_text(config, encoding="utf-8")
    assert m3("ingest").code == 0
    return here / "m3.toml"


def test_through_a_live_collection(collection: Path, data: Path, m3: M3) -> None:
    ended = m3("eval", "--through", "-c", collection, "--data", data, "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    live = document["through"]
    assert (live["collection"], live["generation"], live["exact"]) == ("handbook", 1, "fused:balanced")
    # Five documents and one outside of the corpus: every query finds all six.
    assert live["outside_corpus"] == 4
    assert live["overlap@10"] == 1.0
    assert live["degraded"] == live["refused"] == live["chunked"] == 0
    exact, through = (document["runs"][name]["ndcg@10"] for name in ("fused:balanced", "through"))
    assert live["loss"]["ndcg@10"]["difference"] == pytest.approx(through - exact, abs=2e-4)
    assert document["runs"]["through"]["recall@100"] == 1.0
    shown = m3("eval", "--through", "-c", collection, "--data", data, "--as", "default:nobody")
    assert shown.code == 0
    assert "handbook generation 1 against exact fused:balanced: overlap@10 0.000" in shown.out
