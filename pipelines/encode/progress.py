"""What encoding tells while it works: one live line on a terminal, a plain line every 10 seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from pipelines.encode.reading import Totals
from pipelines.ingest.meter import Meter
from pipelines.ingest.progress_text import duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_SECONDS = 10.0


class Progress(Protocol):
    """Told after each batch; counts are increments."""

    def encoded(self, texts: int, tokens: int, text_bytes: int) -> None: ...

    def close(self) -> None: ...


def work_text(meter: Meter) -> str:
    """Texts done, pace and time left, as far as they are known: `612/908 texts   5,020 tokens/s   0:00:31 left`."""
    total = f"/{meter.total_documents:,}" if meter.total_documents else ""
    pace = f"   {meter.tokens_per_second():,.0f} tokens/s" if meter.tokens else ""
    left = meter.seconds_left() if meter.total_documents else None
    remaining = f"   {duration(left)} left" if left is not None and left >= 1 else ""
    return f"{meter.documents:,}{total} texts{pace}{remaining}"


def _meter(totals: Totals | None, clock: Callable[[], float] = time.monotonic) -> Meter:
    meter = Meter(clock)
    if totals is not None:
        meter.total_documents, meter.total_bytes = totals.texts, totals.text_bytes
    meter.begin()
    return meter


class Silent:
    """Says nothing: where results and progress would share a terminal."""

    def encoded(self, texts: int, tokens: int, text_bytes: int) -> None:
        """Nothing to say."""

    def close(self) -> None:
        """Nothing to close."""


class Lines:
    """A plain line every 10 seconds at most."""

    def __init__(self, stream: TextIO, totals: Totals | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last = clock()
        self._meter = _meter(totals, clock)

    def encoded(self, texts: int, tokens: int, text_bytes: int) -> None:
        self._meter.add(tokens, text_bytes)
        self._meter.commit(texts, None)
        if self._clock() - self._last >= _LINE_SECONDS:
            self._last = self._clock()
            self._stream.write(f"encode   {work_text(self._meter)}\n")
            self._stream.flush()

    def close(self) -> None:
        """Every line is written already."""


class Bar:
    """One live line on a terminal: share of the texts' bytes, texts, tokens per second, time left."""

    def __init__(self, stream: TextIO, totals: Totals | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._meter = _meter(totals)
        columns = (TextColumn("encode  "), BarColumn(bar_width=28), TextColumn("{task.description}"))
        console = Console(file=stream, highlight=False)
        self._bar: RichProgress = RichProgress(*columns, console=console, refresh_per_second=4, transient=True)
        total = float(totals.text_bytes) if totals is not None else None
        self._task: TaskID = self._bar.add_task(work_text(self._meter), total=total)
        self._bar.start()

    def encoded(self, texts: int, tokens: int, text_bytes: int) -> None:
        self._meter.add(tokens, text_bytes)
        self._meter.commit(texts, None)
        self._bar.update(self._task, advance=text_bytes, description=work_text(self._meter))

    def close(self) -> None:
        self._bar.stop()


def open_progress(stream: TextIO, totals: Totals | None) -> Progress:
    """A bar if `stream` is a terminal, plain lines otherwise. `totals` is None where nobody knows them."""
    return Bar(stream, totals) if stream.isatty() else Lines(stream, totals)
