"""Which passages of a ranking make hard wrong answers: close to the question, clearly less right than the right one.

Ranks from a to b leave out what stands first, which often is right; a ceiling under the right passage's own score
leaves out what is probably right too (Moreira et al. 2024, arXiv:2407.15831: a share of the positive's score).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from m3core.types import Float32Array


@dataclass(frozen=True)
class Window:
    """Ranks `first` to `last` (from 1), scores under `margin` of the right passage's, at most `most` a question."""

    first: int = 5
    last: int = 100
    margin: float = 0.95
    most: int = 1

    def ceiling(self, right: float) -> float:
        """What a wrong passage must stay under, where the right one scores `right`."""
        return right - (1 - self.margin) * abs(right)


@dataclass(frozen=True, slots=True)
class Choice:
    """Places of the passages chosen, and how many of the window were passed over because they score too high."""

    chosen: tuple[int, ...]
    too_close: int


def choose(
    rankings: Sequence[Sequence[int]], scores: Float32Array, right: Collection[int], ceiling: float, window: Window
) -> Choice:
    """Take from each ranking in turn, best rank first, what is not right and scores under the ceiling.

    `scores` `[N]` are the question's with every passage, by place.
    """
    windows = [ranking[window.first - 1 : window.last] for ranking in rankings]
    offered = dict.fromkeys(place for ranks in zip_longest(*windows) for place in ranks if place is not None)
    wrong = [place for place in offered if place not in right]
    under = [place for place in wrong if float(scores[place]) < ceiling]
    return Choice(tuple(under[: window.most]), len(wrong) - len(under))
