"""What training tells while it works: one live line on a terminal, a plain line every 10 seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TextIO

from m3core.terminal import plain
from pipelines.ingest.progress_text import duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_SECONDS = 10.0
_RECENT = 20
_SHOWN = ("dense", "lexical", "multi", "sum")


class Progress(Protocol):
    """Told after each step, and what else there is to say."""

    def stepped(self, step: int, share: float, row: Mapping[str, float]) -> None: ...

    def note(self, line: str) -> None: ...

    def close(self) -> None: ...


class Meter:
    """Recent losses, tokens per second and time left, from the steps."""

    def __init__(self, steps: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps = steps
        self._clock = clock
        self._started = self._since = clock()
        self._tokens = 0.0
        self._first_share: float | None = None
        self._recent: deque[Mapping[str, float]] = deque(maxlen=_RECENT)

    def add(self, step: int, share: float, row: Mapping[str, float]) -> str:
        """Count a step; the line for it."""
        now = self._clock()
        if self._first_share is None and self._steps:
            self._first_share = max(0.0, share - 1 / self._steps)
        elif self._first_share is None:
            # Where minutes end a run nobody knows what one step's share was: what is left counts from the first one.
            self._first_share, self._since = share, now
        self._tokens += row["tokens"]
        self._recent.append(row)
        seconds = max(now - self._started, 1e-9)
        done = share - self._first_share
        left = (now - self._since) / done * (1 - share) if done > 0 else 0.0
        total = f"/{self._steps:,}" if self._steps else ""
        remaining = f"   {duration(left)} left" if left >= 1 else ""
        return f"step {step:,}{total}   {self._losses()}   {self._tokens / seconds:,.0f} tokens/s{remaining}"

    def _losses(self) -> str:
        means = {
            name: sum(row[name] for row in self._recent) / len(self._recent)
            for name in ("loss", *_SHOWN)
            if name in self._recent[0]
        }
        return " ".join(f"{name} {value:.3f}" for name, value in means.items())


class Silent:
    """Says nothing: every process but the leading one."""

    def stepped(self, step: int, share: float, row: Mapping[str, float]) -> None:
        """Nothing to say."""

    def note(self, line: str) -> None:
        """Nothing to say."""

    def close(self) -> None:
        """Nothing to close."""


class Lines:
    """A plain line every 10 seconds at most."""

    def __init__(self, stream: TextIO, steps: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last = clock()
        self._meter = Meter(steps, clock)

    def stepped(self, step: int, share: float, row: Mapping[str, float]) -> None:
        line = self._meter.add(step, share, row)
        if self._clock() - self._last >= _LINE_SECONDS:
            self._last = self._clock()
            self.note(f"train    {line}")

    def note(self, line: str) -> None:
        self._stream.write(plain(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Every line is written already."""


class Bar:
    """One live line on a terminal: share of the budget, losses, tokens per second, time left."""

    def __init__(self, stream: TextIO, steps: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._meter = Meter(steps)
        columns = (TextColumn("train   "), BarColumn(bar_width=20), TextColumn("{task.description}"))
        console = Console(file=stream, highlight=False)
        self._bar: RichProgress = RichProgress(*columns, console=console, refresh_per_second=4, transient=True)
        self._task: TaskID = self._bar.add_task("", total=1.0)
        self._bar.start()

    def stepped(self, step: int, share: float, row: Mapping[str, float]) -> None:
        self._bar.update(self._task, completed=min(1.0, share), description=self._meter.add(step, share, row))

    def note(self, line: str) -> None:
        self._bar.console.print(plain(line), markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def open_progress(stream: TextIO, steps: int | None) -> Progress:
    """A bar if `stream` is a terminal, plain lines otherwise. `steps` is None where minutes alone end the run."""
    return Bar(stream, steps) if stream.isatty() else Lines(stream, steps)
