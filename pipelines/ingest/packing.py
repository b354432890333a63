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

# A part holds at most this many budgets: small, so that edits stay local; not one, so that chunks come out fuller.
SPAN = 2
# No cut is nearer to an end of its range than half a budget (chunks would be slivers), nor than this share of the
# range (weights in a hostile order would peel off part after part, each time looking at all that is left).
_HALF, _SHARE = 2, 16
# A weight is the coarseness of the boundary, finest kind 4, above as many bits of a hash.
_FINEST, _HASH_BITS = 4, 60


def divide(cumulative: Sequence[int], weights: Int64Array, budget: int) -> list[tuple[int, int]]:
    """Ranges of atoms, in order, of at most SPAN budgets of tokens each (or of one atom).

    `cumulative` `[N + 1]` counts the tokens before each atom; `weights` `[N]` says how much its content wants a cut
    before each atom. A range that is too long is cut where the weight is largest, the nearest to the middle of these,
    but not close to its ends.
    """
    parts: list[tuple[int, int]] = []
    counts = np.asarray(cumulative, dtype=np.int64)
    waiting = [(0, len(cumulative) - 1)]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2 or counts[last] - counts[first] <= SPAN * budget:
            parts.append((first, last))
            continue
        cut = _heaviest(counts, weights, *_inside(counts, first, last, budget), first, last)
        waiting.extend([(cut, last), (first, cut)])
    return parts


def _inside(counts: Int64Array, first: int, last: int, budget: int) -> tuple[int, int]:
    """The range of atoms before which `[first, last)` may be cut; all inner ones if none is far from both ends."""
    margin = max(budget // _HALF, int(counts[last] - counts[first]) // _SHARE)
    low = first + 1 + int(np.searchsorted(counts[first + 1 : last], counts[first] + margin))
    high = first + 1 + int(np.searchsorted(counts[first + 1 : last], counts[last] - margin, side="right"))
    return (low, high) if low < high else (first + 1, last)


def _heaviest(counts: Int64Array, weights: Int64Array, low: int, high: int, first: int, last: int) -> int:
    inner = weights[low:high]
    best = np.flatnonzero(inner == inner.max()) + low
    middle = (counts[first] + counts[last]) / 2
    return int(best[np.argmin(np.abs(counts[best] - middle))])


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

    Coarser boundaries (a small `kind`, 0 to 4) come first; among equals the 64-bit digest of what begins there decides.
    """
    hashed = np.array(digests, dtype=np.uint64) >> np.uint64(64 - _HASH_BITS)
    coarseness = (_FINEST - np.array(kinds, dtype=np.int64)) << _HASH_BITS
    return coarseness + hashed.astype(np.int64)
