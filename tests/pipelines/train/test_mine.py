"""`m3 mine` on a tiny corpus, against a search by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3core import Encoder
from m3core.evaluate.bm25 import bm25, token_ids
from m3core.train.examples import Row
from pipelines.train.mine import read_corpus, spelled
from tests.m3core.train.parts import made_rows
from tests.pipelines.cli.conftest import M3
from tests.pipelines.train.conftest import Write


@pytest.fixture
def corpus(write: Write) -> list[str]:
    texts = list(dict.fromkeys(text for row in made_rows(30) for text in (*row.positives, *row.negatives)))
    records: list[dict[str, Any]] = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    write("corpus.jsonl", [*records, {"_id": "again", "text": f" {texts[0]} "}, {"_id": "empty", "text": " "}])
    return texts


def _mined(m3: M3, model: Path, *more: str | Path) -> list[dict[str, Any]]:
    ended = m3("mine", "rows.jsonl", "--corpus", "corpus.jsonl", "--model", model, "--output", "out.jsonl", *more)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("lexical", [True, False])
def test_rows_are_those_of_a_search_by_hand(
    m3: M3, tiny_model: Path, write: Write, corpus: list[str], lexical: bool
) -> None:
    rows = made_rows(30)
    fields = [{"query": row.query, "pos": list(row.positives), "neg": list(row.negatives[:1])} for row in rows]
    # The same question once more, answered by another passage: it is no wrong answer to either.
    fields.append({"query": rows[4].query, "pos": [rows[9].positives[0]], "neg": []})
    write("rows.jsonl", fields)
    options = ["--ranks", "2-12", "--margin", "0.97", "--negatives", "3", *([] if lexical else ["--no-bm25"])]
    found = _mined(m3, tiny_model, *options)
    encoder = Encoder.load(tiny_model)
    documents = encoder.encode(corpus).dense
    assert documents is not None
    tokens = token_ids(encoder.tokenizer, corpus)
    assert [row["query"] for row in found] == [row["query"] for row in fields]
    mined = 0
    for given, row in zip(fields, found, strict=True):
        query = encoder.encode_query(given["query"]).dense  # type: ignore[arg-type]
        scores = documents @ query
        rankings = [sorted(range(len(corpus)), key=lambda i: (-scores[i], i))]
        if lexical:
            rankings.append(bm25(token_ids(encoder.tokenizer, [given["query"]]), tokens, 12).row(0))  # type: ignore[list-item]
        ceiling = 0.97 * min(float(scores[corpus.index(text)]) for text in given["pos"])
        taken = {
            text for other in fields if other["query"] == given["query"] for text in (*other["pos"], *other["neg"])
        }
        expected: list[str] = []
        for rank in range(1, 12):
            for ranking in rankings:
                place = ranking[rank] if rank < len(ranking) else None
                if place is not None and scores[place] < ceiling and corpus[place] not in {*taken, *expected}:
                    expected.append(corpus[place])
        assert row["pos"] == given["pos"]
        assert row["neg"] == [*given["neg"], *expected[:3]]
        mined += len(expected[:3])
    assert mined > 2


def test_what_was_mined_is_trained_on_and_a_teachers_scores_end_where_it_has_none(
    train: M3, m3: M3, tiny_model: Path, rows: Path, corpus: list[str]
) -> None:
    assert rows.name == "rows.jsonl"
    found = _mined(m3, tiny_model, "--ranks", "1-20", "--margin", "1")
    given = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    more = [len(row["neg"]) > len(before["neg"]) for row, before in zip(found, given, strict=True)]
    assert any(more)
    assert [("pos_scores" in row) for row in found] == [not added for added in more]
    ended = train("out.jsonl", "--out", "model", "--steps", "2", "--negatives", "3", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["rows"] == len(found)


def test_what_cannot_be_mined_is_refused(m3: M3, tiny_model: Path, rows: Path, corpus: list[str], here: Path) -> None:
    common = ["mine", rows, "--model", tiny_model, "--output", "o.jsonl"]
    for more, told in [
        (["--corpus", "nowhere"], "--corpus nowhere: no corpus"),
        (["--corpus", "corpus.jsonl", "--ranks", "9-3"], "--ranks '9-3': two whole numbers with 1 <= A <= B"),
        (["--corpus", "corpus.jsonl", "--margin", "2"], "is no number from 0 to 1"),
        (["--corpus", "corpus.jsonl", "--output", rows], "is an input"),
    ]:
        ended = m3(*common, *more)
        assert ended.code == 2
        assert told in ended.err
    assert not (here / "o.jsonl").exists()


def test_a_corpus_of_parquet_with_titles(m3: M3, tiny_model: Path, write: Write, here: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["the key", "a desk", "night train", "laboratory"]
    pq.write_table(pa.table({"title": ["T", "", None, "L"], "text": texts}), here / "c.parquet")
    write("rows.jsonl", [{"query": "who", "pos": ["the key"]}])
    ended = m3(
        "mine", "rows.jsonl", "--corpus", "c.parquet", "--model", tiny_model, "--output", "o.jsonl", "--ranks", "1-9",
        "--margin", "1", "--negatives", "9", "--no-bm25", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    (row,) = [json.loads(line) for line in (here / "o.jsonl").read_text().splitlines()]
    # The right passage is known without its title; so the others are written without theirs.
    assert set(row["neg"]) <= {"a desk", "night train", "laboratory"}
    assert document["negatives"] == len(row["neg"])
    assert document["negatives"] + document["too_close"] == 3
    encoder = Encoder.load(tiny_model)
    query = encoder.encode_query("who").dense
    vectors = encoder.encode(["the key", "a desk", "night train", "L\nlaboratory"]).dense
    assert vectors is not None
    scores = np.asarray(vectors @ query)
    assert len(row["neg"]) == int((scores[1:] < scores[0]).sum())


def test_the_corpus_is_spelled_as_the_rows_spell_it(write: Write) -> None:
    file = write("c.jsonl", [{"title": f"T{number}", "text": f"body {number}"} for number in range(4)])
    corpus = read_corpus(file)
    with_titles = [Row("a", ("T0\nbody 0",)), Row("b", ("T1 body 1",), ("body 2",))]
    without = [Row("a", ("T0\nbody 0",)), Row("b", ("body 1",), ("body 2",)), Row("c", ("elsewhere",))]
    assert spelled(with_titles, corpus) == [f"T{number}\nbody {number}" for number in range(4)]
    assert spelled(without, corpus) == [f"body {number}" for number in range(4)]
    assert spelled([Row("a", ("elsewhere",))], corpus) == corpus.texts


def test_broken_texts_of_a_corpus_are_named(write: Write) -> None:
    rows = [{"text": "good"}, {"text": 7}, {"title": ["T"], "text": "x"}, {"text": "a\ud800"}, {"text": " "}]
    corpus = read_corpus(write("c.jsonl", rows))
    assert (list(corpus.texts), corpus.left_out) == (["good"], 1)
    (line,) = corpus.problems.lines()
    for number, word in ((2, "text is an integer"), (3, "title is a list"), (4, "text has U+D800")):
        assert f"c.jsonl line {number} ({word}" in line
