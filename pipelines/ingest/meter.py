"""Documents, tokens, pace and time left of a run, from the increments that its steps report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_PACE_SECONDS = 60.0


class Meter:
    """Sums the increments. The pace is that of the last minute: a machine's load changes during a long run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int, int]] = deque()
        self.total_documents = 0
        self.total_bytes = 0
        self.documents = 0
        self.tokens = 0
        self.reused_tokens = 0
        self.text_bytes = 0
        self.rows = 0
        self._committed = (0, 0)
        self._text_per_source_byte = 1.0

    def begin(self) -> None:
        """Start the clock of the pace, once."""
        if not self._samples:
            self._sample()

    def add(self, tokens: int, text_bytes: int) -> None:
        """Texts that were encoded."""
        self.tokens += tokens
        self.text_bytes += text_bytes
        self._sample()

    def commit(self, documents: int, source_bytes: int | None) -> None:
        """A wave is done. `source_bytes`: what its documents had in the listing; None if they came from the lake.

        Sources count their own bytes (JSON, mark-up), chunks theirs; what was committed says how they relate.
        """
        self.documents += documents
        source, text = self._committed
        source += self.text_bytes - text if source_bytes is None else source_bytes
        self._committed = source, self.text_bytes
        if source and self.text_bytes:
            self._text_per_source_byte = self.text_bytes / source

    @property
    def total_text_bytes(self) -> float:
        """Text of all that is planned, as far as one can know."""
        return max(1.0, self.total_bytes * self._text_per_source_byte)

    def tokens_per_second(self) -> float:
        """Tokens encoded per second."""
        return self._pace(1)

    def seconds_left(self) -> float | None:
        """At the present pace; None while there is none."""
        pace = self._pace(2)
        return max(0.0, (self.total_text_bytes - self.text_bytes) / pace) if pace > 0 else None

    def _pace(self, column: int) -> float:
        if not self._samples:
            return 0.0
        first, last = self._samples[0], (self._clock(), self.tokens, self.text_bytes)
        elapsed = last[0] - first[0]
        return (last[column] - first[column]) / elapsed if elapsed > 0 else 0.0

    def _sample(self) -> None:
        now = self._clock()
        if not self._samples or now - self._samples[-1][0] >= 1:
            self._samples.append((now, self.tokens, self.text_bytes))
        while now - self._samples[0][0] > _PACE_SECONDS and len(self._samples) > 1:
            self._samples.popleft()
