from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m3core.train.mining import Window, choose


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 8), st.floats(0.5, 1.0), st.integers(1, 5))
def test_a_choice_is_of_the_window_wrong_under_the_ceiling_and_the_first_of_these(
    seed: int, first: int, wide: int, margin: float, most: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(20).astype(np.float32)
    rankings = [np.argsort(-scores).tolist(), rng.permutation(20)[: rng.integers(1, 20)].tolist()]
    right = set(rng.permutation(20)[:2].tolist())
    window = Window(first, first + wide, margin, most)
    ceiling = window.ceiling(max(float(scores[place]) for place in right))
    found = choose(rankings, scores, right, ceiling, window)
    # By rank, the dense ranking before the other.
    expected: list[int] = []
    for rank in range(first, first + wide + 1):
        for ranking in rankings:
            if rank <= len(ranking):
                place = ranking[rank - 1]
                if place not in right and place not in expected and scores[place] < ceiling:
                    expected.append(place)
    assert list(found.chosen) == expected[:most]
    offered = {place for ranking in rankings for place in ranking[first - 1 : first + wide]} - right
    assert found.too_close == len(offered) - len(expected)


def test_the_ceiling_is_under_the_right_score_whatever_its_sign() -> None:
    window = Window(margin=0.95)
    assert window.ceiling(0.8) == 0.8 * 0.95
    assert window.ceiling(-0.2) < -0.2
