"""What a run tells: lines and bar."""

from __future__ import annotations

import io

from pipelines.ingest.progress import Lines, NoProgress, open_progress
from pipelines.ingest.progress_bar import Bar
from pipelines.ingest.progress_text import Header, Planned
from tests.pipelines.ingest.parts import Clock

HEADER = Header("handbook", 3, "m3-small", 118)
PLANNED = Planned(listed=41_143, unchanged=40_690, to_read=451, pending=0, gone=2, to_read_bytes=4000)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def drive(progress: NoProgress, clock: Clock | None = None) -> None:
    """The calls of a small run."""
    progress.started(HEADER)
    progress.listing(1000)
    progress.planned(PLANNED)
    progress.wave(1)
    progress.reused(10, 1000)
    for _ in range(3):
        if clock is not None:
            clock.now += 5
        progress.encoded(500, 1000)
    progress.loaded(9)
    progress.committed(451, 4000)
    progress.stopping("SIGTERM")
    progress.publishing()
    progress.close()


def test_lines_come_at_start_now_and_then_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    drive(Lines(stream, clock), clock)
    assert stream.getvalue().splitlines() == [
        "handbook · generation 3 · m3-small · run 118",
        "listing  41,143 documents   unchanged 40,690 · to read 451 · gone 2",
        "encode   0/451 documents   1,000 tokens (10 reused)   100 tokens/s   0:00:03 left",
        "stopping (SIGTERM): the running unit finishes, finished documents are committed",
        "encode   451/451 documents   1,500 tokens (10 reused)   100 tokens/s",
        "publish  the new snapshot",
    ]


def test_a_long_listing_is_told_about() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Lines(stream, clock)
    progress.listing(1000)
    clock.now += 11
    progress.listing(2000)
    assert stream.getvalue() == "listing  2,000 documents so far\n"


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    progress = open_progress(stream)
    assert isinstance(progress, Bar)
    drive(progress)
    text = stream.getvalue()
    assert "handbook · generation 3" in text
    assert "451/451 documents" in text
    assert "publish  the new snapshot" in text


def test_no_terminal_gets_lines_without_escapes() -> None:
    stream = io.StringIO()
    progress = open_progress(stream)
    assert isinstance(progress, Lines)
    progress.started(Header("a\x1b[31m", 1, "evil\u202emodel", 1))
    assert stream.getvalue() == "a[31m · generation 1 · evilmodel · run 1\n"


def test_nobody_looking_still_counts() -> None:
    progress = NoProgress()
    drive(progress)
    meter = progress.meter
    assert (meter.tokens, meter.reused_tokens, meter.rows, meter.documents) == (1500, 10, 9, 451)
