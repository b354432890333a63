"""What a run tells: lines, bar, pace."""

from __future__ import annotations

import io

from pipelines.ingest.progress import (
    Bar,
    Header,
    Lines,
    Meter,
    NoProgress,
    Planned,
    bar_text,
    duration,
    header_line,
    open_progress,
    planned_line,
)

HEADER = Header("handbook", 3, "m3-small", 118)
PLANNED = Planned(listed=41_143, unchanged=40_690, to_read=451, pending=0, gone=2, to_do_bytes=4000)


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


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


def test_the_pace_is_that_of_the_last_minute() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.total_bytes = 100_000
    meter.begin()
    for _ in range(100):
        clock.now += 1
        meter.add(10, 100)
    assert round(meter.tokens_per_second()) == 10
    for _ in range(70):
        clock.now += 1
        meter.add(20, 200)
    assert round(meter.tokens_per_second()) == 20
    left = meter.seconds_left()
    assert left is not None
    assert round(left) == (100_000 - 24_000) // 200


def test_without_a_pace_nothing_is_promised() -> None:
    meter = Meter()
    assert meter.tokens_per_second() == 0.0
    assert meter.seconds_left() is None
    assert bar_text(meter) == "0/0 documents   0 tokens"


def test_texts() -> None:
    assert header_line(HEADER) == "handbook · generation 3 · m3-small · run 118"
    assert planned_line(Planned(0, 0, 0, 0, 0, 0)) == "listing  0 documents"
    assert planned_line(Planned(5, 0, 3, 2, 0, 9)) == "listing  5 documents   to read 3 · pending 2"
    assert duration(4211.4) == "1:10:11"


def test_the_time_left_learns_how_text_and_source_bytes_relate() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.total_bytes = 4000
    meter.begin()
    clock.now += 10
    meter.add(100, 1000)
    assert meter.seconds_left() == 30
    meter.commit(5, 2000)
    assert meter.seconds_left() == 10
    clock.now += 10
    meter.add(100, 1000)
    meter.commit(5, 2000)
    assert (meter.seconds_left(), meter.documents) == (0, 10)


def test_documents_from_the_lake_leave_that_relation_alone() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.total_bytes = 3000
    meter.begin()
    clock.now += 10
    meter.add(0, 1000)
    meter.commit(5, None)
    assert meter.seconds_left() == 20
