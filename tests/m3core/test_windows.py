"""Windows: every text once, in order, and never more than was allowed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from m3core.windows import Tokens, read_windows


@given(st.lists(st.text(max_size=30)), st.integers(1, 6), st.integers(1, 20))
def test_windows_hold_every_text_once_and_close_as_soon_as_they_are_full(
    texts: list[str], most_texts: int, most_tokens: int
) -> None:
    windows = list(read_windows(texts, most_texts, most_tokens))
    assert [text for window in windows for text in window] == texts
    for place, window in enumerate(windows):
        assert 1 <= len(window) <= most_texts
        assert sum(map(len, window[:-1])) < 4 * most_tokens
        full = len(window) == most_texts or sum(map(len, window)) >= 4 * most_tokens
        assert full or place == len(windows) - 1


@given(st.lists(st.integers(1, 12)), st.integers(1, 20))
def test_cut_tokens_stay_in_order_within_the_limit(lengths: list[int], most: int) -> None:
    tokens = Tokens([[place] * length for place, length in enumerate(lengths)], [length > 6 for length in lengths])
    parts = list(tokens.cut(most))
    assert [row for part in parts for row in part.ids] == tokens.ids
    assert [cut for part in parts for cut in part.truncated] == tokens.truncated
    assert all(len(part.ids) == 1 or sum(part.lengths) <= most for part in parts)
    for part, following in pairwise(parts):
        assert sum(part.lengths) + following.lengths[0] > most
