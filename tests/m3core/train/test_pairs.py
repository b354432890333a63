from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from m3core.train.pairs import Pair, bounded_per_passage, read_pairs, sample_languages


def test_sources_of_unclear_terms_are_left_out_and_repeats_bounded(pairs_file: Path) -> None:
    pairs = read_pairs(pairs_file)
    assert "tquad" not in {pair.source for pair in pairs}
    bounded = bounded_per_passage([pair for pair in pairs if not pair.translation], np.random.default_rng(0))
    assert Counter(pair.positive for pair in bounded)["one passage"] == 4


def test_small_languages_are_drawn_more_often_than_their_share() -> None:
    pairs = [Pair(str(i), str(i), "s", "en" if i < 900 else "sw") for i in range(1000)]
    drawn = sample_languages(pairs, 200, 0.5, np.random.default_rng(0))
    small = sum(pair.language == "sw" for pair in drawn)
    # 900 ** .5 to 100 ** .5 is three to one.
    assert len({pair.query for pair in drawn}) == 200
    assert 35 <= small <= 65
