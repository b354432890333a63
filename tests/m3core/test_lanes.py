"""Lanes: as many as the work is worth, each on its share of torch's threads, and nothing of it left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from m3core.lanes import LANE_TOKENS, Lanes, lane_count


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "batch", "tokens", "expected"),
    [
        (2, 4096, 10**6, 2),
        (16, 4096, 10**6, 4),
        (16, 1 << 16, 3 * LANE_TOKENS, 3),
        (2, LANE_TOKENS, 10**6, 1),
        (2, 4096, 30, 1),
        (1, 4096, 10**6, 1),
        (4, 64, 0, 1),
    ],
)
def test_as_many_as_the_work_is_worth(cores: int, batch: int, tokens: int, expected: int) -> None:
    assert lane_count(cores, batch, tokens) == expected


def test_each_has_its_share_and_the_callers_threads_stay(threads: int) -> None:
    seen, together, later = [], threading.Barrier(2), []

    def work() -> None:
        together.wait(timeout=10)  # both at once, so two threads
        seen.append((threading.current_thread().name, torch.get_num_threads()))

    Lanes(2).run(work, lanes=2)
    assert {share for _, share in seen} == {threads // 2}
    assert len({name for name, _ in seen}) == 2
    assert torch.get_num_threads() == threads
    new = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert later == [threads]


def test_the_first_error_is_raised_when_all_are_done() -> None:
    done, numbers = [], iter(range(3))

    def work() -> None:
        if next(numbers) == 0:
            raise LookupError("first")
        done.append(1)

    with pytest.raises(LookupError, match="first"):
        Lanes(3).run(work, lanes=3)
    assert len(done) == 2
