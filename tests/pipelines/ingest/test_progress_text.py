"""The words of the progress."""

from __future__ import annotations

from pipelines.ingest.meter import Meter
from pipelines.ingest.progress_text import Header, Planned, duration, header_line, planned_line, work_line


def test_texts() -> None:
    assert header_line(Header("handbook", 3, "m3-small", 118)) == "handbook · generation 3 · m3-small · run 118"
    assert planned_line(Planned(0, 0, 0, 0, 0, 0)) == "listing  0 documents"
    assert planned_line(Planned(5, 0, 3, 2, 0, 9)) == "listing  5 documents   to read 3 · pending 2"
    assert duration(4211.4) == "1:10:11"


def test_a_load_lists_nothing_and_counts_rows() -> None:
    waiting = Planned(None, unchanged=0, to_read=0, pending=3, gone=1, to_read_bytes=0)
    assert planned_line(waiting) == "waiting  pending 3 · gone 1"
    assert planned_line(Planned(None, 0, 0, 0, 0, 0)) == "waiting  nothing"
    meter = Meter()
    meter.total_documents = 4
    meter.rows = 1200
    meter.commit(2, None)
    assert work_line(meter) == "load     2/4 documents   1,200 rows"
