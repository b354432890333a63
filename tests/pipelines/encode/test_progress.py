"""What encoding tells while it works."""

from __future__ import annotations

import io

from pipelines.encode.progress import Bar, Lines, Silent, open_progress
from pipelines.encode.reading import Totals
from tests.pipelines.ingest.parts import Clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Lines(stream, Totals(texts=60, text_bytes=6000), clock)
    for _ in range(5):
        clock.now += 4
        progress.encoded(10, 2000, 1000)
    progress.close()
    assert stream.getvalue().splitlines() == ["encode   30/60 texts   500 tokens/s   0:00:12 left"]


def test_without_totals_there_is_no_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Lines(stream, None, clock)
    clock.now += 10
    progress.encoded(10, 2000, 1000)
    assert stream.getvalue() == "encode   10 texts   200 tokens/s\n"


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    stream = Terminal()
    progress = open_progress(stream, Totals(texts=2, text_bytes=10))
    assert isinstance(progress, Bar)
    progress.encoded(1, 5, 5)
    progress.close()
    assert "1/2 texts" in stream.getvalue()
    assert isinstance(open_progress(io.StringIO(), None), Lines)


def test_silence_is_silent() -> None:
    progress = Silent()
    progress.encoded(1, 2, 3)
    progress.close()
