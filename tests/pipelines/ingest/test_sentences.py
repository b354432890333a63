"""Sentences in several scripts, and cuts that leave characters whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.sentences import grapheme_ceiling, grapheme_floor, sentence_starts, windows

any_text = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab .!?。\n\"'()*-1")), max_size=200
)


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Dr. Smith paid $3.50 on Jan. 5. ", "He left! ", "Did he?"]),
        ("de", ["Das kostet ca. 3,5 Mio. Euro. ", "Am 5. März kam Prof. Müller."]),
        ("zh-Hans", ["今天天气很好。", "我们去公园吧！", "你想去吗？"]),
        ("ja", ["今日は天気がいい。", "公園に行こう！", "「はい。」", "と彼は言った。"]),
        ("ar", ["الطقس جميل اليوم. ", "هل تريد الذهاب إلى الحديقة؟ ", "نعم، أريد."]),
        ("hi", ["आज मौसम अच्छा है। ", "क्या आप पार्क जाना चाहते हैं? ", "हाँ।"]),
        ("th", ["วันนี้อากาศดี เราไปสวนสาธารณะกันเถอะ"]),
        ("", ["One. ", "Two \U0001f600! ", "三。", "Four."]),
        ("tlh", ["One. ", "Two."]),
    ],
)
def test_sentences_of_many_languages(language: str, sentences: list[str]) -> None:
    text = "".join(sentences)
    starts = [0, *sentence_starts(text, language), len(text)]
    assert [text[start:end] for start, end in pairwise(starts)] == sentences


@given(any_text, st.sampled_from(["", "en", "ja", "zh-Hant", "th", "ar", "hi", "xx-yy"]))
def test_starts_are_ascending_places_in_any_text(text: str, language: str) -> None:
    starts = sentence_starts(text, language)
    assert starts == sorted(set(starts))
    assert all(0 < start < max(1, len(text)) for start in starts)


def test_a_text_over_one_window_is_read_whole() -> None:
    sentence = "The train leaves at nine. "
    assert len(sentence_starts(sentence * 6_000, "en")) == 5_999


@given(any_text, st.integers(2, 40))
def test_windows_are_the_whole_text(text: str, size: int) -> None:
    parts = list(windows(text, size))
    assert "".join(part for _, part in parts) == text
    assert all(len(part) <= size for _, part in parts)
    assert all(text.startswith(part, begin) for begin, part in parts)


FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize("character", [FAMILY, "e\u0301", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "क्षि", "한"])
def test_characters_are_not_cut(character: str) -> None:
    text = f"ab{character}cd"
    for place in range(3, 2 + len(character)):
        assert grapheme_floor(text, place) == 2
        assert grapheme_ceiling(text, place) == 2 + len(character)


def test_an_endless_cluster_is_cut_where_asked() -> None:
    text = "a" + "\u0301" * 500
    assert grapheme_floor(text, 250) == 250
    assert grapheme_ceiling(text, 250) == 250
