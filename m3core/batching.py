"""Batches without waste: texts sorted by length and cut by a budget of tokens, smaller where memory runs out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

_Result = TypeVar("_Result")
# Calls what it is given in several threads at once and returns when all have (m3core.lanes).
SideBySide = Callable[[Callable[[], None]], None]
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
    side_by_side: SideBySide | None = None,
) -> tuple[list[_Result], list[int]]:
    """Run `forward` on batches of indices, longest texts first, each of max length x size <= the budget of the moment.

    A batch that does not fit is tried again in smaller ones. Returns the results and the indices of the texts that do
    not even fit alone. Longest first, so that what does not fit shows at once; ties keep the order of the texts.
    With `side_by_side` the results come in the order in which they are finished, and a text is only called too large
    when it was tried with nothing beside it.
    """
    results: list[_Result] = []

    def drain(waiting: _Waiting) -> None:
        with waiting.left_when_one_fails():
            while batch := waiting.take(budget.tokens(asked)):
                try:
                    results.append(forward(batch))
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    budget.shrink(asked, max(1, lengths[batch[0]]) * len(batch))
                    waiting.did_not_fit(batch)
                else:
                    budget.grow()

    waiting = _Waiting(lengths, np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist())
    if side_by_side is not None:
        with waiting.left_when_one_fails():
            side_by_side(lambda: drain(waiting))
        waiting = _Waiting(lengths, waiting.alone)
    drain(waiting)
    return results, waiting.alone


class _Waiting:
    """Indices of texts that wait for their batch, in order, and those that did not fit alone. Safe between threads."""

    def __init__(self, lengths: Sequence[int], order: Sequence[int]) -> None:
        self._lock = threading.Lock()
        self._lengths = lengths
        self._runs = [deque(order)]
        self.alone: list[int] = []

    def take(self, tokens: int) -> list[int]:
        """The next batch: max length x size <= `tokens`, or one text. Empty when nothing waits."""
        with self._lock:
            while self._runs and not self._runs[-1]:
                self._runs.pop()
            if not self._runs:
                return []
            run = self._runs[-1]
            size = max(1, tokens // max(1, self._lengths[run[0]]))
            return [run.popleft() for _ in range(min(size, len(run)))]

    def did_not_fit(self, batch: list[int]) -> None:
        """Its texts come next; one alone does not come again."""
        with self._lock:
            if len(batch) > 1:
                self._runs.append(deque(batch))
            else:
                self.alone.extend(batch)

    @contextmanager
    def left_when_one_fails(self) -> Iterator[None]:
        """Nothing more is given out after an error inside."""
        try:
            yield
        except BaseException:
            with self._lock:
                self._runs.clear()
            raise
