"""How many requests a key may make: a token bucket each (its size a tenth of a minute's share, at least 10)."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from pipelines.query.service.problems import Problem, ProblemError

# Buckets that are full again tell nothing; only this many of the last used are remembered.
_REMEMBERED = 10_000


class RateLimits:
    """Requests per minute and key, in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key_id: str, per_minute: int) -> None:
        """Count one request. Raises ProblemError (429 with Retry-After) if the key has none left; 0: no limit."""
        if per_minute <= 0:
            return
        left, wait = self.left(key_id, per_minute), 60 / per_minute
        if left < 1:
            seconds = max(1, math.ceil((1 - left) * wait))
            detail = f"the key's {per_minute} requests a minute are used up"
            raise ProblemError(Problem(429, "rate-limit", detail, f"ask again in {seconds} s", retry_after=seconds))
        self._buckets[key_id] = (left - 1, self._clock())
        self._buckets.move_to_end(key_id)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)

    def left(self, key_id: str, per_minute: int) -> float:
        """Requests that the key's bucket holds now."""
        size = max(10.0, per_minute / 10)
        left, then = self._buckets.get(key_id, (size, 0.0))
        return min(size, left + (self._clock() - then) * per_minute / 60)
