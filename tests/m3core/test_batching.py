"""Token budgets: every text that fits comes out once, whatever runs out of memory where."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m3core.batching import TokenBudget, forward_all, is_out_of_memory
from m3core.lanes import Lanes

_LENGTHS = st.lists(st.integers(0, 50), max_size=60)


def _oom() -> RuntimeError:
    return torch.OutOfMemoryError("CUDA out of memory")


@given(_LENGTHS, st.integers(1, 120))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches, alone = forward_all(lengths, budget, TokenBudget(), lambda indices: indices)
    assert alone == []
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(flat, reverse=True)


@given(_LENGTHS, st.integers(1, 120), st.integers(1, 60), st.randoms(use_true_random=False))
def test_what_fits_alone_comes_out_once_wherever_memory_runs_out(
    lengths: list[int], asked: int, room: int, chance: random.Random
) -> None:
    def forward(indices: list[int]) -> list[int]:
        needed = max(lengths[i] for i in indices) * len(indices)
        # Beyond the room a batch never fits; below it a batch of several may fail by bad luck.
        if needed > room or (len(indices) > 1 and chance.random() < 0.3):
            raise _oom()
        return indices

    batches, alone = forward_all(lengths, asked, TokenBudget(), forward)
    done = [index for batch in batches for index in batch]
    assert sorted(done + alone) == list(range(len(lengths)))
    assert all(lengths[index] > room for index in alone)
    assert all(lengths[index] <= room for index in done)


def test_a_thousand_failures_lose_and_repeat_nothing() -> None:
    chance, budget = random.Random(7), TokenBudget()

    def forward(indices: list[int]) -> list[int]:
        if len(indices) > 1 and chance.random() < 0.2:
            raise _oom()
        return indices

    calls = 0
    while budget.halvings < 1000 and calls < 200:
        calls += 1
        lengths = [chance.randint(1, 400) for _ in range(1000)]
        batches, alone = forward_all(lengths, 4096, budget, forward)
        assert alone == []
        assert sorted(index for batch in batches for index in batch) == list(range(1000))
    assert budget.halvings >= 1000


def test_the_budget_halves_and_creeps_back() -> None:
    budget = TokenBudget()
    budget.shrink(4096, 4096)
    assert (budget.tokens(4096), budget.halvings) == (2048, 1)
    budget.shrink(4096, 2000)
    assert budget.tokens(4096) == 1000
    sizes = []
    for _ in range(80):
        budget.grow()
        sizes.append(budget.tokens(4096))
    assert sizes == sorted(sizes)
    assert sizes[6] == 1000
    assert sizes[7] == 1250
    assert sizes[-1] == 4096


def test_new_halvings_are_told_once() -> None:
    budget = TokenBudget()
    assert budget.new_halvings() == 0
    budget.shrink(4096, 4096)
    budget.shrink(4096, 2048)
    assert (budget.new_halvings(), budget.new_halvings()) == (2, 0)
    budget.shrink(4096, 1024)
    assert (budget.new_halvings(), budget.halvings) == (1, 3)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator: "), False),
    ],
)
def test_only_a_lack_of_memory_is_one(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_says_so_when_an_allocation_is_too_large() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def side_by_side(work: Callable[[], None]) -> None:
    Lanes(3).run(work, lanes=3)


@settings(max_examples=40, deadline=None)
@given(_LENGTHS, st.integers(1, 120), st.integers(1, 60), st.integers(0, 1 << 16))
def test_side_by_side_every_text_that_fits_comes_out_once(lengths: list[int], asked: int, room: int, seed: int) -> None:
    chance, lock = random.Random(seed), threading.Lock()
    beside = 0

    def forward(indices: list[int]) -> list[int]:
        nonlocal beside
        with lock:
            beside += 1
            unlucky = beside > 1 and chance.random() < 0.5  # another lane has the memory
        try:
            if unlucky or max(lengths[i] for i in indices) * len(indices) > room:
                raise _oom()
            return indices
        finally:
            with lock:
                beside -= 1

    batches, alone = forward_all(lengths, asked, TokenBudget(), forward, side_by_side)
    assert sorted([index for batch in batches for index in batch] + alone) == list(range(len(lengths)))
    assert sorted(alone) == [index for index, length in enumerate(lengths) if length > room]


def test_side_by_side_an_error_ends_all_lanes() -> None:
    begun = []

    def forward(indices: list[int]) -> None:
        begun.append(indices)
        raise ValueError(f"text {indices[0]}")

    with pytest.raises(ValueError, match="text"):
        forward_all([1] * 1000, 1, TokenBudget(), forward, side_by_side)
    assert len(begun) <= 3


def test_any_other_error_passes_through() -> None:
    def forward(indices: list[int]) -> None:
        raise RuntimeError(f"shape of {indices}")

    with pytest.raises(RuntimeError, match=r"shape of \[1, 0\]"):
        forward_all([1, 2], 10, TokenBudget(), forward)
