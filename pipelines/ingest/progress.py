"""What a run tells while it works: a bar on a terminal, plain lines otherwise, nothing where nobody looks.

A run calls `Progress` from its steps; the meter turns the calls into documents, tokens per second and time left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TextIO

from m3core.logs import lines_are_json
from m3core.terminal import plain
from pipelines.ingest.meter import Meter
from pipelines.ingest.progress_text import Header, Planned, header_line, planned_line, stopping_line, work_line

_LINE_SECONDS = 10.0


class Progress(Protocol):
    """Called by a run, from one thread at a time. Counts are increments."""

    def started(self, header: Header) -> None: ...

    def listing(self, documents: int) -> None:
        """So many documents are listed by now (a total, not an increment)."""

    def planned(self, planned: Planned) -> None: ...

    def wave(self, number: int) -> None: ...

    def reused(self, tokens: int, text_bytes: int) -> None: ...

    def encoded(self, tokens: int, text_bytes: int) -> None: ...

    def loaded(self, rows: int) -> None: ...

    def committed(self, documents: int, source_bytes: int | None) -> None: ...

    def publishing(self) -> None: ...

    def stopping(self, reason: str) -> None: ...

    def close(self) -> None: ...


class NoProgress:
    """Says nothing, but counts: for programs that want the report only."""

    def __init__(self) -> None:
        self.meter = Meter()

    def started(self, header: Header) -> None:
        """Nothing to say."""

    def listing(self, documents: int) -> None:
        """Nothing to say."""

    def planned(self, planned: Planned) -> None:
        """Remember the totals."""
        self.meter.total_documents = planned.to_read + planned.pending
        self.meter.total_bytes = planned.to_read_bytes

    def wave(self, number: int) -> None:
        """Start the clock."""
        self.meter.begin()

    def reused(self, tokens: int, text_bytes: int) -> None:
        """Texts whose vectors were in the lake."""
        self.meter.reused_tokens += tokens
        self.meter.text_bytes += text_bytes

    def encoded(self, tokens: int, text_bytes: int) -> None:
        """Texts that went through the model."""
        self.meter.add(tokens, text_bytes)

    def loaded(self, rows: int) -> None:
        """Rows that every store acknowledged."""
        self.meter.rows += rows

    def committed(self, documents: int, source_bytes: int | None) -> None:
        """Documents in the manifest."""
        self.meter.commit(documents, source_bytes)

    def publishing(self) -> None:
        """Nothing to say."""

    def stopping(self, reason: str) -> None:
        """Nothing to say."""

    def close(self) -> None:
        """Nothing to close."""


class Lines(NoProgress):
    """Plain lines: at the start, every 10 seconds at most while it works, before the flip."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stream = stream
        self._clock = clock
        self._last = clock()
        self.meter = Meter(clock)

    def started(self, header: Header) -> None:
        self._say(header_line(header))

    def listing(self, documents: int) -> None:
        self._now_and_then(f"listing  {documents:,} documents so far")

    def planned(self, planned: Planned) -> None:
        super().planned(planned)
        self._say(planned_line(planned))

    def encoded(self, tokens: int, text_bytes: int) -> None:
        super().encoded(tokens, text_bytes)
        self._now_and_then(work_line(self.meter))

    def loaded(self, rows: int) -> None:
        super().loaded(rows)
        self._now_and_then(work_line(self.meter))

    def committed(self, documents: int, source_bytes: int | None) -> None:
        super().committed(documents, source_bytes)
        self._now_and_then(work_line(self.meter))

    def publishing(self) -> None:
        if self.meter.documents:
            self._say(work_line(self.meter))
        self._say("publish  the new snapshot")

    def stopping(self, reason: str) -> None:
        self._say(stopping_line(reason))

    def _now_and_then(self, line: str) -> None:
        if self._clock() - self._last >= _LINE_SECONDS:
            self._say(line)

    def _say(self, line: str) -> None:
        self._last = self._clock()
        self._stream.write(plain(line) + "\n")
        self._stream.flush()


def open_progress(stream: TextIO) -> Progress:
    """A bar if `stream` is a terminal, plain lines otherwise; nothing where log lines are JSON."""
    if lines_are_json():
        return NoProgress()
    if not stream.isatty():
        return Lines(stream)
    from pipelines.ingest.progress_bar import Bar

    return Bar(stream)
