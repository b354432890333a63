"""How long to wait before another attempt: full jitter, never less than the store asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime


@dataclass
class Backoff:
    """Waits of one series of failed attempts. Full jitter: uniform between 0 and `base * 2^n`, at most `limit` seconds.

    (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.)
    """

    base: float = 0.25
    limit: float = 20.0
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def wait(self, retry_after: float = 0.0) -> float:
        """Seconds to wait after one more failure."""
        most = min(self.limit, self.base * 2.0 ** min(self.failures, 32))
        self.failures += 1
        # Spread beyond what the store asked for as well: everybody was told the same moment.
        return max(0.0, retry_after) + self.random.uniform(0.0, most)

    def reset(self) -> None:
        """An attempt succeeded."""
        self.failures = 0


def retry_after_seconds(header: str, now: float) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3); 0 if it is neither."""
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return 0.0
