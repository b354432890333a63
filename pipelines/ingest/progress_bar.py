"""The progress of a run as one live line on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from m3core.terminal import plain
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.progress_text import Header, Planned, bar_text, header_line, planned_line, stopping_line

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


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
        self._print(stopping_line(reason))

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
