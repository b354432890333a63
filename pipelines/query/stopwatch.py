"""How long each stage of one search took."""

from __future__ import annotations

import time


class Stopwatch:
    """Milliseconds per stage, in the order in which they ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """What passed since the last lap belongs to `stage`, apart from what `add` already told."""
        now = time.perf_counter()
        self._stages[stage] = 1e3 * (now - self._last)
        self._last = now

    def add(self, stage: str, seconds: float) -> None:
        """A stage that was timed elsewhere, since the last lap."""
        self._stages[stage] = 1e3 * seconds
        self._last += seconds

    def seconds(self, stage: str) -> float:
        """What a stage took; 0 for one that has not ended."""
        return self._stages.get(stage, 0.0) / 1e3

    def stages(self) -> dict[str, float]:
        """All stages and the total so far."""
        return {**self._stages, "total": 1e3 * (time.perf_counter() - self._start)}
