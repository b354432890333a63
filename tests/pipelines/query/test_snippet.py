"""The part of a text that is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.terminal import plain
from pipelines.query.snippet import matches, query_terms, snippet

FILLER = "lorem ipsum dolor sit amet " * 40


def test_short_text_is_shown_whole_with_its_matches_marked() -> None:
    part = snippet("Night trains are paid.\nBook the TRAIN early.", "train to Rome", 200)
    assert part.text == "Night trains are paid. Book the TRAIN early."
    assert [part.text[a:b] for a, b in part.marks] == ["train", "TRAIN"]
    assert not part.cut_before
    assert not part.cut_after


def test_window_lies_around_the_densest_matches() -> None:
    text = f"{FILLER}cryostat {FILLER}the cryostat booking desk opens at nine {FILLER}"
    part = snippet(text, "cryostat booking desk", 90)
    assert "the cryostat booking desk" in part.text
    assert len(part.text) <= 90
    assert part.cut_before
    assert part.cut_after
    assert [part.text[a:b] for a, b in part.marks] == ["cryostat", "booking", "desk"]


def test_without_a_match_the_beginning_is_shown() -> None:
    part = snippet(FILLER, "Schlüssel", 60)
    assert FILLER.startswith(part.text)
    assert part.marks == ()
    assert not part.cut_before


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("Wie hoch ist der Turm?", ["hoch", "turm"]),
        ("is it on", ["is", "it", "on"]),
        ("低温実験室 key", ["低温", "温実", "実験", "験室"]),
        ("低温実験室 Cryostat", ["cryostat", "低温", "温実", "実験", "験室"]),
        ("?!", []),
    ],
)
def test_query_terms(query: str, terms: list[str]) -> None:
    assert query_terms(query) == terms


def test_words_match_at_their_beginning_and_scripts_without_spaces_anywhere() -> None:
    assert matches("retrain trains", "train") == [(8, 13)]
    assert matches("この低温実験室の鍵", "低温実験室") == [(2, 7)]


@given(st.text(max_size=400), st.text(max_size=60), st.integers(20, 200))
def test_any_text_gives_a_clean_window_with_marks_inside(text: str, query: str, width: int) -> None:
    part = snippet(text, query, width)
    assert len(part.text) <= width
    assert plain(part.text) == part.text
    assert all(0 <= a < b for a, b in part.marks)
    assert all(one[1] <= other[0] for one, other in zip(part.marks, part.marks[1:], strict=False))


def test_large_text_and_query_stay_cheap() -> None:
    part = snippet("night train " * 50_000, "night train " * 600, 150)
    assert part.marks
