"""Pace and time left."""

from __future__ import annotations

from pipelines.ingest.meter import Meter
from pipelines.ingest.progress_text import bar_text
from tests.pipelines.ingest.parts import Clock


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
