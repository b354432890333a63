"""Batches without waste: texts sorted by length and cut by a budget of tokens, smaller where memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

_Result = TypeVar("_Result")
# After a halving, this many batches in a row that fit raise the share by a quarter.
_PATIENCE = 8
_GROWTH = 1.25
# What torch's CPU allocator raises: a RuntimeError like many others, told apart by its text.
_CPU_ALLOCATOR = "DefaultCPUAllocator: "


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left. Everything else is a real failure."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)


class TokenBudget:
    """The share of the asked-for batch size that fits, kept over the calls of one encoder. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._share = 1.0
        self._fitted = 0
        self._halvings = 0
        self._told = 0

    @property
    def halvings(self) -> int:
        """How often a batch did not fit."""
        return self._halvings

    def new_halvings(self) -> int:
        """Those since the last call: threads that add up what they are told count each one once."""
        with self._lock:
            new, self._told = self._halvings - self._told, self._halvings
            return new

    def tokens(self, asked: int) -> int:
        """Padded tokens that a batch may hold now; at least 1."""
        with self._lock:
            return max(1, int(asked * self._share))

    def shrink(self, asked: int, tried: int) -> None:
        """A batch of `tried` padded tokens did not fit: the next ones get at most half of that."""
        with self._lock:
            self._halvings += 1
            self._fitted = 0
            self._share = min(self._share, max(1, tried // 2) / asked)

    def grow(self) -> None:
        """A batch fitted."""
        with self._lock:
            self._fitted += 1
            if self._fitted >= _PATIENCE and self._share < 1.0:
                self._fitted = 0
                self._share = min(1.0, self._share * _GROWTH)


def forward_all(
    lengths: Sequence[int],
    asked: int,
    budget: TokenBudget,
    forward: Callable[[list[int]], _Result],
) -> tuple[list[_Result], list[int]]:
    """Run `forward` on batches of indices, longest texts first, each of max length x size <= the budget of the moment.

    A batch that does not fit is tried again in smaller ones. Returns the results and the indices of the texts that do
    not even fit alone. Longest first, so that what does not fit shows at once; ties keep the order of the texts.
    """
    waiting = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    results: list[_Result] = []
    alone: list[int] = []
    place = 0
    while place < len(waiting):
        longest = max(1, lengths[waiting[place]])
        size = max(1, budget.tokens(asked) // longest)
        batch = waiting[place : place + size]
        try:
            results.append(forward(batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            budget.shrink(asked, longest * len(batch))
            if len(batch) > 1:
                continue
            alone.append(batch[0])
        else:
            budget.grow()
        place += len(batch)
    return results, alone
