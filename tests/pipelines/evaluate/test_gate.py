"""A user's questions as a condition of a promotion."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import UsageError
from m3core.evaluate.measures import MEASURES
from pipelines.evaluate.gate import Question, judge, parse_least, read_questions


def test_figures_are_means_over_the_questions() -> None:
    questions = [Question("one", {"a": 1}), Question("two", {"b": 1}), Question("nothing", {"c": 1})]
    answers = {"one": ["a", "x"], "two": ["x", "b"], "nothing": []}
    check = judge(questions, {"success@1": 0.3, "mrr@10": 0.5, "recall@100": 0.6}, answers.__getitem__)
    assert check.passed
    told = "3 asked: success@1 0.333 (least 0.3), mrr@10 0.500 (least 0.5), recall@100 0.667 (least 0.6)"
    assert (check.name, check.detail, check.remedy) == ("queries", told, "")
    failed = judge(questions, {"success@1": 0.34}, answers.__getitem__)
    assert not failed.passed
    assert "a lower --min accepts it" in failed.remedy


def test_degrees_count() -> None:
    question = Question("one", {"best": 3, "good": 1})
    check = judge([question], {"ndcg@10": 0.999}, lambda _: ["good", "best"])
    ideal, found = 3 + 1 / math.log2(3), 1 + 3 / math.log2(3)
    assert f"ndcg@10 {found / ideal:.3f}" in check.detail
    assert judge([question], {"ndcg@10": 0.999}, lambda _: ["best", "good"]).passed


def test_questions_are_read_with_and_without_degrees(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"query": "schlüssel", "relevant": ["a.md", "b.md"]}\n\n{"query": "key", "relevant": {"c.md": 2}}\n'
    )
    assert read_questions(file) == [
        Question("schlüssel", {"a.md": 1, "b.md": 1}),
        Question("key", {"c.md": 2}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"query": "a"}',
        '{"query": "", "relevant": ["a"]}',
        '{"query": 7, "relevant": ["a"]}',
        '{"query": "a", "relevant": []}',
        '{"query": "a", "relevant": "abc"}',
        '{"query": "a", "relevant": {"b": 0}}',
        '{"query": "a", "relevant": {"b": "1"}}',
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"query": "a", "relevant": ["b"]}\n' + line + "\n")
    with pytest.raises(UsageError, match=r"questions\.jsonl:2 is no question"):
        read_questions(file)


def test_a_file_that_is_not_there_or_empty_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: FileNotFoundError"):
        read_questions(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="has no questions"):
        read_questions(tmp_path / "empty.jsonl")


@given(st.sampled_from(MEASURES), st.floats(0, 1))
def test_a_limit_is_read_as_it_is_written(name: str, value: float) -> None:
    assert parse_least([f"{name}={value!r}"]) == {name: value}


@given(st.text(max_size=30))
def test_whatever_is_typed_is_a_limit_or_an_error(text: str) -> None:
    try:
        least = parse_least([text])
    except UsageError:
        return
    assert all(name in MEASURES and 0 <= value <= 1 for name, value in least.items())


@pytest.mark.parametrize("text", ["ndcg@10=1.1", "ndcg@10=nan", "ndcg@10=-0.1", "ndcg@10", "ndcg=0.5"])
def test_a_limit_beyond_the_scale_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_least([text])


def test_the_line_of_a_check_is_json() -> None:
    check = judge([Question("a", {"b": 1})], {"map": 0.5}, lambda _: ["b"])
    assert json.loads(json.dumps(check.as_json())) == {
        "name": "queries",
        "passed": True,
        "detail": "1 asked: map 1.000 (least 0.5)",
        "remedy": None,
    }
