"""The words of the progress."""

from __future__ import annotations

from pipelines.ingest.progress_text import Header, Planned, duration, header_line, planned_line


def test_texts() -> None:
    assert header_line(Header("handbook", 3, "m3-small", 118)) == "handbook · generation 3 · m3-small · run 118"
    assert planned_line(Planned(0, 0, 0, 0, 0, 0)) == "listing  0 documents"
    assert planned_line(Planned(5, 0, 3, 2, 0, 9)) == "listing  5 documents   to read 3 · pending 2"
    assert duration(4211.4) == "1:10:11"
