from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from pipelines.cli import demo
from pipelines.cli.demo_run import (
    PRINCIPALS,
    Outcome,
    Question,
    build_name,
    mean_reciprocal_rank,
    prepare,
    read_languages,
    read_questions,
    recall_at_1,
)
from pipelines.cli.percent import Percent
from pipelines.ingest import generation
from pipelines.ingest.progress import Planned
from pipelines.query.answer import Answer

NAMES = ("dense", "lexical", "multi", "fused")


def outcome(right: str, **rankings: str) -> Outcome:
    """An outcome whose rankings are words, a letter per document."""
    empty = Answer("q", (), {}, {}, 1, {}, {})
    return Outcome(Question("q", "?", "en", (right,)), {name: tuple(rankings[name]) for name in NAMES}, empty)


def test_figures_are_means_per_signal() -> None:
    outcomes = [
        outcome("a", dense="abc", lexical="bca", multi="", fused="a"),
        outcome("b", dense="abc", lexical="b", multi="ab", fused="ba"),
    ]
    assert recall_at_1(outcomes) == {"dense": 0.5, "lexical": 0.5, "multi": 0.0, "fused": 1.0}
    assert mean_reciprocal_rank(outcomes) == {"dense": 0.75, "lexical": 0.6667, "multi": 0.25, "fused": 1.0}
    assert [outcomes[0].rank(name) for name in NAMES] == [1, 3, None, 1]


def test_the_sample_is_whole() -> None:
    questions, languages = read_questions(), read_languages()
    assert (len(questions), len(languages)) == (40, 120)
    assert {doc_id for question in questions for doc_id in question.doc_ids} <= set(languages)
    assert set(demo.EXAMPLES) <= {question.query_id for question in questions}
    examples = [question for question in questions if question.query_id in demo.EXAMPLES]
    assert len({question.language for question in examples}) == 5
    assert all(question.language != languages[question.doc_ids[0]] for question in examples)


def test_prepare_writes_what_is_missing_or_changed_and_ignores_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M3_SEARCH__LIMIT", "1")
    folder = tmp_path / "demo"
    loaded = prepare(folder, "m3-small")
    assert (folder.stat().st_mode & 0o777, loaded.base) == (0o700, folder)
    assert loaded.config.search.principals == PRINCIPALS
    assert loaded.config.search.limit == 10
    before = (folder / "documents.jsonl").stat().st_mtime_ns
    (folder / "m3.toml").write_text("broken", encoding="utf-8")
    assert prepare(folder, "m3-small").config == loaded.config
    assert (folder / "documents.jsonl").stat().st_mtime_ns == before


def test_every_build_has_its_own_folder(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = build_name(str(tiny_model))
    assert re.fullmatch(r"[0-9a-f]{12}", name)
    assert build_name(str(tiny_model)) == name
    monkeypatch.setattr(generation, "CHUNKER_VERSION", "another")
    assert build_name(str(tiny_model)) != name


@pytest.mark.slow
def test_the_demonstration_runs_twice_and_the_second_time_ingests_nothing(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [question for question in read_questions() if question.query_id in demo.EXAMPLES]
    monkeypatch.setattr("pipelines.cli.demo_run.read_questions", lambda: few)
    demo.run(tmp_path / "demo", str(tiny_model), questions=True, as_json=False)
    out, err = capsys.readouterr()
    assert err == ""
    assert re.match(
        r"  sample +120 documents, 16 languages -> dense, lexical, multi +ok +\d+ s +[\d,]+ tokens/s\n", out
    )
    assert re.findall(r"^Question \((\w\w)\)", out, flags=re.MULTILINE) == ["ja", "de", "ru", "ar", "hi"]
    assert len(re.findall(r"^ [12]  .* dense .* lexical .* multi ", out, flags=re.MULTILINE)) == 10
    assert re.search(r"^5 questions +recall@1 +dense \d\.\d\d +lexical .* multi .* fused \d\.\d\d$", out, re.MULTILINE)
    assert f"search -c {tmp_path}/demo/m3.toml --explain" in out
    assert len([line for line in out.splitlines() if re.match(r"q\d\d ", line)]) == 5

    demo.run(tmp_path / "demo", str(tiny_model), questions=False, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema_version", "questions", "documents", "recall@1", "mrr", "seconds"]
    assert (document["schema_version"], document["questions"], document["documents"]) == (1, 5, 120)
    for measure in ("recall@1", "mrr"):
        assert set(document[measure]) == set(NAMES)
        assert all(0 <= figure <= 1 for figure in document[measure].values())
    demo.run(tmp_path / "demo", str(tiny_model), questions=False, as_json=False)
    assert "in the cache already" in capsys.readouterr().out


@pytest.mark.slow
def test_m3_small_answers_the_questions_as_well_as_when_it_was_shipped(
    tmp_path: Path, m3_small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.run(tmp_path / "demo", str(m3_small), questions=True, as_json=True)
    document = json.loads(capsys.readouterr().out)
    # Measured when it was committed: fused 0.875, multi 0.725, dense 0.675 (tests/bench/RESULTS.md).
    assert document["recall@1"]["fused"] >= 0.85
    assert document["recall@1"]["dense"] >= 0.6
    assert [document["ranks"][query_id]["fused"] for query_id in demo.EXAMPLES] == [1] * 5


def test_percent_rewrites_one_line_on_a_terminal_and_is_silent_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, said in ((Terminal(), "\r\x1b[Ksample  25%\r\x1b[K"), (io.StringIO(), "")):
        progress = Percent("sample", stream)
        progress.planned(Planned(listed=4, unchanged=0, to_read=4, pending=0, gone=0, to_read_bytes=400))
        progress.encoded(10, 100)
        progress.close()
        assert stream.getvalue() == said
