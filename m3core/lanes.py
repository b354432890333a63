"""Batches side by side: each lane runs whole batches on its share of the cores, so that no core waits for another.

Cores that share a matrix product meet at its end, a hundred times a batch; where something else runs on one of them,
all wait for it each time. Lanes meet only when the work is done.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

# With fewer tokens in a batch the matrix products of one core are slower.
LANE_TOKENS = 1024


def lane_count(threads: int, batch_tokens: int, tokens: int) -> int:
    """How many lanes `tokens` in batches of `batch_tokens` are worth on `threads` cores; at least 1."""
    return max(1, min(threads, batch_tokens // LANE_TOKENS, tokens // LANE_TOKENS))


class Lanes:
    """Threads for up to `most` lanes, kept between calls. Safe between threads: callers take turns."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="m3-lane")

    def run(self, work: Callable[[], None], lanes: int) -> None:
        """Call `work` in that many lanes, which share the caller's torch threads, and wait for all of them.

        Raises what the first of them to fail raised.
        """
        own = torch.get_num_threads()
        share = max(1, own // lanes)

        def lane() -> None:
            # torch's number of threads belongs to the thread that sets it.
            if torch.get_num_threads() != share:
                torch.set_num_threads(share)
            work()

        futures = [self._pool.submit(lane) for _ in range(lanes)]
        wait(futures)
        torch.set_num_threads(own)  # threads that start later would inherit the lanes' share
        for future in futures:
            future.result()
