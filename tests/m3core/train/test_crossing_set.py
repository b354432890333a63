from __future__ import annotations

import json
from pathlib import Path

from m3core.train.bitexts import held_out
from m3core.train.crossing_set import main, write_crossing_set
from m3core.train.pairs import Pair


def test_every_family_is_asked_for_in_other_languages_and_none_was_trained_on(tmp_path: Path) -> None:
    languages = ("de", "fr", "ja")
    pairs = [
        Pair(f"{language} {i}", f"english {i}", "ntrex", language, translation=True)
        for language in languages
        for i in range(300)
    ]
    documents, queries = write_crossing_set(pairs, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert (documents, queries) == (len(rows), len(asked))
    families = {row["_id"]: row for row in rows if row["_id"].startswith("f") and "-" not in row["_id"]}
    assert all(held_out(f"english {row['text'].split()[1]}") for row in families.values())
    assert len(asked) == 3 * len(families)
    own = {language: sum(row["language"] == language for row in rows) for language in languages}
    for query in asked:
        document = families[query["_id"].split("-")[0]]
        assert document["language"] != query["language"]
        assert document["text"].split()[1] == query["text"].split()[1]
    assert min(own.values()) >= 12
    others = [row for row in rows if row["_id"] not in families]
    assert not any(held_out(f"english {row['text'].split()[1]}") for row in others)


def test_passages_of_afriqa_are_wrong_answers_in_their_own_language(tmp_path: Path) -> None:
    pairs = [
        Pair(f"{language} {i}", f"english {i}", "ntrex", language, True) for language in ("de", "fr") for i in range(60)
    ]
    pairs += [
        Pair("ìbéèrè", "a passage", "afriqa", "yo"),
        Pair("a question", "a passage", "afriqa", "en"),
        Pair("une question", "un passage", "afriqa", "fr"),
        Pair("une autre", "un passage", "afriqa", "fr"),
    ]
    write_crossing_set(pairs, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    found = [(row["text"], row["language"]) for row in rows if row["_id"].startswith("afriqa")]
    assert found == [("a passage", "en"), ("un passage", "fr")]
    assert "afriqa" not in (tmp_path / "qrels.tsv").read_text()


def test_the_command_writes_beirs_three_files(pairs_file: Path, tmp_path: Path) -> None:
    main(["--data", str(pairs_file), "--out", str(tmp_path / "set")])
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"corpus.jsonl", "queries.jsonl", "qrels.tsv"}
