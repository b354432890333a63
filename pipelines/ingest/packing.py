"""Which neighbouring atoms share a chunk. Pure arithmetic on token counts; no text is looked at.

A long run of atoms is first divided at boundaries that its content chooses, into parts of at most SPAN budgets; each
part is then packed evenly. An edit moves boundaries only inside the parts that it touches: the division of the rest
depends on nothing but its own atoms.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from m3core.types import Int64Array

# A part holds at most this many budgets: small, so that edits stay local; not tiny, so that chunks come out full.
SPAN = 4


def divide(cumulative: Sequence[int], weights: Int64Array, budget: int) -> list[tuple[int, int]]:
    """Ranges of atoms, in order, of at most SPAN budgets of tokens each (or of one atom).

    `cumulative` `[N + 1]` counts the tokens before each atom; `weights` `[N]` says how much its content wants a cut
    before each atom. A range that is too long is cut where the weight is largest, the nearest to the middle of these.
    """
    parts: list[tuple[int, int]] = []
    counts = np.asarray(cumulative, dtype=np.int64)
    waiting = [(0, len(cumulative) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2 or counts[last] - counts[first] <= SPAN * budget:
            parts.append((first, last))
            continue
        inner = weights[first + 1 : last]
        best = np.flatnonzero(inner == inner.max()) + first + 1
        middle = (counts[first] + counts[last]) / 2
        cut = int(best[np.argmin(np.abs(counts[best] - middle))])
        waiting.extend([(cut, last), (first, cut)])
    return parts


def pack_evenly(cumulative: Sequence[int], first: int, last: int, budget: int) -> list[tuple[int, int]]:
    """As few ranges as the budget allows, their largest as small as it can be. No atom is over the budget."""
    ranges = _fill(cumulative, first, last, budget)
    total = cumulative[last] - cumulative[first]
    low, high = -(-total // len(ranges)), budget
    while low < high:
        middle = (low + high) // 2
        tried = _fill(cumulative, first, last, middle)
        if len(tried) <= len(ranges) and _largest(cumulative, tried) <= middle:
            ranges, high = tried, middle
        else:
            low = middle + 1
    return ranges


def _fill(cumulative: Sequence[int], first: int, last: int, cap: int) -> list[tuple[int, int]]:
    """Greedy: each range takes atoms while they fit, but at least one."""
    ranges: list[tuple[int, int]] = []
    while first < last:
        end = bisect_right(cumulative, cumulative[first] + cap, first + 1, last + 1) - 1
        end = max(end, first + 1)
        ranges.append((first, end))
        first = end
    return ranges


def _largest(cumulative: Sequence[int], ranges: list[tuple[int, int]]) -> int:
    return max(cumulative[last] - cumulative[first] for first, last in ranges)


def content_weights(kinds: Sequence[int], digests: Sequence[int]) -> Int64Array:
    """How much each atom's place wants a cut, `[N]`.

    Coarser boundaries (a small `kind`) come first; among equals a hash of the two atoms that meet there decides, by
    the number of its trailing zero bits, so that few boundaries rank high and equal neighbours rank alike.
    """
    own = np.array(digests, dtype=np.uint64)
    mixed = own ^ (np.roll(own, 1) * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    mixed |= np.uint64(1 << 62)
    lowest = mixed & (~mixed + np.uint64(1))
    zeros: Int64Array = np.log2(lowest.astype(np.float64)).astype(np.int64)
    coarseness: Int64Array = -64 * np.array(kinds, dtype=np.int64)
    return zeros + coarseness
