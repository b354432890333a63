"""What a run tells while it works: a bar on a terminal, plain lines otherwise, nothing where nobody looks.

A run calls `Progress` from its steps; the meter turns the calls into documents, tokens per second and time left.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from m3core.terminal import plain

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_SECONDS = 10.0
_PACE_SECONDS = 60.0


@dataclass(frozen=True)
class Header:
    """The run, named."""

    collection: str
    generation: int
    model: str
    run: int


@dataclass(frozen=True)
class Planned:
    """What the listing says before any document is read."""

    listed: int
    unchanged: int
    to_read: int
    pending: int
    gone: int
    to_do_bytes: int


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
        self.meter.total_bytes = planned.to_do_bytes

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
        self._say(f"stopping ({reason}): the running unit finishes, finished documents are committed")

    def _now_and_then(self, line: str) -> None:
        if self._clock() - self._last >= _LINE_SECONDS:
            self._say(line)

    def _say(self, line: str) -> None:
        self._last = self._clock()
        self._stream.write(plain(line) + "\n")
        self._stream.flush()


class Bar(NoProgress):
    """One live line on a terminal: share of the text done, documents, tokens per second, time left."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def started(self, header: Header) -> None:
        self._print(header_line(header))

    def planned(self, planned: Planned) -> None:
        super().planned(planned)
        self._print(planned_line(planned))

    def wave(self, number: int) -> None:
        super().wave(number)
        if self._bar is None:
            self._open()

    def reused(self, tokens: int, text_bytes: int) -> None:
        super().reused(tokens, text_bytes)
        self._move()

    def encoded(self, tokens: int, text_bytes: int) -> None:
        super().encoded(tokens, text_bytes)
        self._move()

    def loaded(self, rows: int) -> None:
        super().loaded(rows)
        self._move()

    def committed(self, documents: int, source_bytes: int | None) -> None:
        super().committed(documents, source_bytes)
        self._move()

    def publishing(self) -> None:
        self.close()
        self._print("publish  the new snapshot")

    def stopping(self, reason: str) -> None:
        self._print(f"stopping ({reason}): the running unit finishes, finished documents are committed")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open(self) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("encode  "), BarColumn(bar_width=28), TextColumn("{task.description}"))
        self._bar = RichProgress(*columns, console=self._console, auto_refresh=True, refresh_per_second=4)
        self._task = self._bar.add_task(bar_text(self.meter), total=1.0)
        self._bar.start()

    def _move(self) -> None:
        if self._bar is not None and self._task is not None:
            done = min(1.0, self.meter.text_bytes / self.meter.total_text_bytes)
            self._bar.update(self._task, completed=done, description=bar_text(self.meter))

    def _print(self, line: str) -> None:
        self._console.print(plain(line), markup=False, soft_wrap=True)


def header_line(header: Header) -> str:
    """`handbook · generation 1 · m3-small · run 3`."""
    return f"{header.collection} · generation {header.generation} · {header.model} · run {header.run}"


def planned_line(planned: Planned) -> str:
    """What the listing found, classes that are empty left out."""
    parts = [("unchanged", planned.unchanged), ("to read", planned.to_read), ("pending", planned.pending)]
    classes = " · ".join(f"{name} {count:,}" for name, count in [*parts, ("gone", planned.gone)] if count)
    return f"listing  {planned.listed:,} documents   {classes}".rstrip()


def work_line(meter: Meter) -> str:
    """One line of progress."""
    return "encode   " + bar_text(meter)


def bar_text(meter: Meter) -> str:
    """Documents committed, tokens, pace and time left."""
    left = meter.seconds_left()
    remaining = f"   {duration(left)} left" if left is not None and left >= 1 else ""
    reused = f" ({meter.reused_tokens:,} reused)" if meter.reused_tokens else ""
    pace = f"   {meter.tokens_per_second():,.0f} tokens/s" if meter.tokens else ""
    return f"{meter.documents:,}/{meter.total_documents:,} documents   {meter.tokens:,} tokens{reused}{pace}{remaining}"


def duration(seconds: float) -> str:
    """`0:12:31`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def open_progress(stream: TextIO) -> Progress:
    """A bar if `stream` is a terminal, plain lines otherwise."""
    return Bar(stream) if stream.isatty() else Lines(stream)
