"""How late an answer is when stores are late: 1,000 searches under one deadline, beside the timers of an idle loop.

python -m tests.bench.deadlines [--deadline 0.2] [--searches 1000] [--at-once 8]

Three stores in memory, a few rows. In every search each store, but for the texts of the page, is by chance quick, slow
(up to twice the deadline), or frozen; so nearly every answer is degraded and has waited.
With the breakers off all of them wait; with the breakers on those of a store that fails on are spared the wait.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from m3core.errors import StoreError
from pipelines.query.breaker import BreakerRules, Breakers
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router
from tests.pipelines.query.conftest import STAFF, THREE_STORES, Kit, World

LIMIT_MS = 20.0
FROZEN = 3600.0
# Few: stores in memory answer in the loop itself, and what they take is not what is measured.
ROWS = 40


class Luck(dict[str, Any]):
    """Faults by place, drawn anew at every request."""

    def __init__(self, rng: np.random.Generator, places: tuple[str, ...], deadline: float) -> None:
        super().__init__()
        self.rng, self.places, self.deadline = rng, places, deadline

    def get(self, place: str, default: Any = None) -> Any:
        if place not in self.places:
            return default
        return (None, self.rng.uniform(0, 2 * self.deadline), FROZEN)[int(self.rng.integers(3))]


def router_of(world: World, deadline: float, breakers: bool) -> Router:
    rng = np.random.default_rng(5)
    faults = {
        "vectors": Luck(rng, ("search dense", "score dense"), deadline),
        "words": Luck(rng, ("search lexical", "score lexical"), deadline),
        "tokens": Luck(rng, ("score multi",), deadline),
    }
    rules = BreakerRules(patience=0.2 * deadline) if breakers else BreakerRules(failures=1 << 60)
    return replace(world.router(faults), breakers=Breakers(rules))


async def timed(work: Callable[[int], Awaitable[None]], total: int, at_once: int) -> list[float]:
    """Seconds of each piece of work, `at_once` of them side by side."""
    seconds: list[float] = []
    numbers = iter(range(total))

    async def one_after_another() -> None:
        for number in numbers:
            began = time.perf_counter()
            await work(number)
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return sorted(seconds)


def measured(world: World, options: argparse.Namespace, breakers: bool) -> tuple[list[float], Counter[str]]:
    router, outcomes = router_of(world, options.deadline, breakers), Counter[str]()

    async def search(number: int) -> None:
        try:
            answer = await router.search(SearchRequest(f"question {number}", STAFF, timeout=options.deadline))
        except StoreError:
            outcomes["no signal left"] += 1
        else:
            outcomes["degraded" if answer.degraded else "whole"] += 1

    return asyncio.run(timed(search, options.searches, options.at_once)), outcomes


def idle(options: argparse.Namespace) -> list[float]:
    async def sleep(_: int) -> None:
        await asyncio.sleep(options.deadline)

    return asyncio.run(timed(sleep, options.searches, options.at_once))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deadline", type=float, default=0.2, help="seconds")
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = Kit(Path(folder)).random_world(3, ROWS, THREE_STORES)
        rows = {
            "idle loop, sleeping as long": (idle(options), Counter[str]()),
            "breakers off": measured(world, options, breakers=False),
            "breakers on": measured(world, options, breakers=True),
        }
    base = p99(rows["idle loop, sleeping as long"][0]) - options.deadline
    print(f"deadline {1e3 * options.deadline:.0f} ms, {options.searches} searches, {options.at_once} at once")
    over = 0.0
    for name, (seconds, outcomes) in rows.items():
        late = 1e3 * (p99(seconds) - options.deadline - base)
        over = max(over, late)
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        median = 1e3 * seconds[len(seconds) // 2]
        print(f"{name:<28} p50 {median:6.1f} ms   p99 {1e3 * p99(seconds):6.1f} ms   {told}")
    print(f"p99 over deadline and idle loop: {over:.1f} ms (limit {LIMIT_MS:.0f})")
    return int(over > LIMIT_MS)


def p99(seconds: list[float]) -> float:
    return seconds[int(0.99 * len(seconds))]


if __name__ == "__main__":
    sys.exit(main())
