"""Streams in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in their order, the last one of what is left; only one is in memory."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
