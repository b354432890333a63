"""Parts of files packed into splits: pure arithmetic on their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from pipelines.ingest.sources.protocol import FilePart, Skipped, Split, SplitLimits


def packed(source: str, parts: Iterable[FilePart | Skipped], limits: SplitLimits) -> Iterator[Split | Skipped]:
    """Neighbouring parts in splits within both limits, in order; a larger part goes alone. What is passed over comes
    between them."""
    held: list[FilePart] = []
    total = 0
    for part in parts:
        if isinstance(part, Skipped):
            yield part
            continue
        if held and (total + part.size > limits.bytes or len(held) >= limits.files):
            yield Split(source, tuple(held))
            held, total = [], 0
        held.append(part)
        total += part.size
    if held:
        yield Split(source, tuple(held))


def byte_ranges(path: str, size: int, stamp: str, most: int) -> Iterator[FilePart]:
    """A file in ranges of about equal size, none larger than `most`; a small one whole."""
    count = max(1, -(-size // most))
    edges = [size * number // count for number in range(count + 1)]
    for first, last in pairwise(edges):
        yield FilePart(path, last - first, stamp, first, last) if count > 1 else FilePart(path, size, stamp)
