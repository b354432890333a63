"""Phrases in quotes: what is one, and which texts have it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.query.phrases import folded, has_phrase, split_phrases


@pytest.mark.parametrize(
    ("query", "text", "phrases"),
    [
        ("night train", "night train", ()),
        ('"night train" to Rome', "night train to Rome", ("night train",)),
        (
            "„Nachtzug nach Rom“ und “night train”",
            "Nachtzug nach Rom und night train",
            ("Nachtzug nach Rom", "night train"),
        ),
        ('"a  b\n" and "a b"', "a  b\n and a b", ("a b",)),
        ('a 12" pipe', 'a 12" pipe', ()),
        ('empty "" and " " and "!?"', 'empty "" and " " and "!?"', ()),
        ("l'été 'single'", "l'été 'single'", ()),
        ("「東京」の「駅」", "「東京」の「駅」", ()),
        ('"東京駅"まで', "東京駅まで", ("東京駅",)),
    ],
)
def test_what_is_a_phrase(query: str, text: str, phrases: tuple[str, ...]) -> None:
    assert split_phrases(query).text == text
    assert split_phrases(query).phrases == phrases


@pytest.mark.parametrize(
    ("text", "phrase", "has"),
    [
        ("The Night  Train\nleaves", "night train", True),
        ("The ｎｉｇｈｔ train leaves", "night train", True),
        ("The night-train leaves", "night train", False),
        ("STRASSENBAHN und Straße", "strasse", True),
        ("Straßenbahn", "straße", False),
        ("a party of art", "art", True),
        ("a party", "art", False),
        ("artful", "art", False),
        ("version 2.10", "2.1", False),
        ("version 2.1.", "2.1", True),
        ("C++ and C", "c++", True),
        ("東京都庁へ行く", "京都", True),
        ("หนังสือเดินทาง", "เดินทาง", True),
        ("हिन्दी में", "हिन्द", False),
        ("हिन्दी में", "हिन्दी", True),
        ("งานนี้", "งานน", False),
        ("مفتاح المختبر البارد", "المختبر البارد", True),
        ("cafe\u0301 noir", "café", True),
        ("cafe\u0301 noir", "cafe", False),
        ("", "a", False),
    ],
)
def test_which_texts_have_it(text: str, phrase: str, has: bool) -> None:
    assert has_phrase(folded(text), folded(phrase)) is has


@given(
    st.lists(st.text("abcß é東京ุี", min_size=1, max_size=6).filter(lambda word: word.strip()), min_size=1, max_size=5)
)
def test_a_text_has_itself_and_every_run_of_its_words(words: list[str]) -> None:
    words = " ".join(words).split()
    text = folded(" ".join(words))
    for first in range(len(words)):
        for last in range(first + 1, len(words) + 1):
            phrase = folded(" ".join(words[first:last]))
            # A mark at the start of a word belongs to what stands before it once both are folded together.
            if phrase in text and not _starts_with_mark(phrase):
                assert has_phrase(text, phrase)


@given(st.text(max_size=60))
def test_splitting_takes_off_quotes_only(query: str) -> None:
    found = split_phrases(query)
    quotes = '"\u201c\u201d\u201e\u201f'
    bare = str.maketrans("", "", quotes)
    assert found.text.translate(bare) == query.translate(bare)
    assert len(query) - len(found.text) >= 2 * len(found.phrases)
    for phrase in found.phrases:
        assert not set(phrase) & set(quotes)
        assert phrase == " ".join(phrase.split())


def _starts_with_mark(phrase: str) -> bool:
    return phrase[0] in "ุี\u0301"
