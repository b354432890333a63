from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from m3core.terminal import fit, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r\nd", "a b c d"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("left\u202eright\u2066x\u2069", "leftrightx"),
        ("nul\x00bell\x07del\x7fc1\x9b", "nulbelldelc1"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a\u2028b", "a b"),
        ("half \ud800 pair", "half \ufffd pair"),
        ("𝔘nicode 🏔", "𝔘nicode 🏔"),
    ],
)
def test_what_reaches_a_terminal(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text(st.characters()))
def test_no_control_no_bidi_no_line_break_and_printable_as_utf8(text: str) -> None:
    shown = plain(text)
    shown.encode("utf-8")
    assert not any(unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs") for sign in shown)
    directions = {unicodedata.bidirectional(sign) for sign in shown}
    assert not directions & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert plain(shown) == shown


@given(st.text(st.characters(categories=("L", "N", "P", "Zs"))), st.integers(2, 40))
def test_fit_is_exactly_as_wide_as_asked(text: str, width: int) -> None:
    assert cell_len(fit(text, width)) == width


def test_fit_counts_cells_and_marks_a_cut() -> None:
    assert fit("abc", 5) == "abc  "
    assert fit("abcdef", 4) == "abc…"
    assert fit("低温実験室", 6) == "低温… "
