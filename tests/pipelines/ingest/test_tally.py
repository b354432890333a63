"""The arithmetic of the report's counts."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from m3core.errors import ExitCode
from pipelines.ingest.commit import Committed
from pipelines.ingest.memory import MemoryPeak
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.tally import Tally
from pipelines.state.runs import DeadLetter

LETTER = DeadLetter("read", "default", "a.md", "a.md", "document", "text is empty")


def tally_of(classes: dict[str, int], changes: dict[str, int], letters: int = 0) -> Tally:
    listed = sum(classes.get(name, 0) for name in ("read", "pending", "unchanged", "duplicate"))
    tally = Tally(time.monotonic(), MemoryPeak(), listed=listed, classes=classes)
    tally.add_wave(Committed(Counter(changes), sum(changes.values()), [LETTER] * letters))
    return tally


@pytest.mark.parametrize(
    ("classes", "changes", "letters", "expected"),
    [
        ({"read": 5}, {"new": 5}, 0, (5, 0, 0, 0, 0)),
        ({"read": 5, "unchanged": 3}, {"new": 1, "changed": 1, "unchanged": 2}, 1, (1, 1, 5, 1, 0)),
        ({"read": 5, "duplicate": 1}, {"new": 2}, 1, (2, 0, 0, 2, 2)),
        ({"pending": 4, "read": 1}, {"pending": 3, "new": 1}, 0, (1, 0, 3, 0, 1)),
        # Owed documents are not listed: their rows are written, and they are in no count.
        ({"owed": 2, "unchanged": 1}, {"pending": 2}, 0, (0, 0, 1, 0, 0)),
        # A failed document whose old version was brought along is failed, once.
        ({"read": 1}, {"kept": 1}, 1, (0, 0, 0, 1, 0)),
    ],
)
def test_every_listed_document_is_in_exactly_one_count(
    classes: dict[str, int], changes: dict[str, int], letters: int, expected: tuple[int, ...]
) -> None:
    counts = tally_of(classes, changes, letters).documents()
    found = (counts.new, counts.changed, counts.unchanged, counts.failed, counts.pending)
    assert found == expected
    assert sum(found) == counts.listed


def test_exit_codes_and_notes() -> None:
    stop = StopFlag()
    tally = tally_of({"pending": 2, "kept": 3}, {"pending": 2}, 0)
    report = tally.report("notes", 1, 2, stop)
    assert report.exit_code is ExitCode.OK
    assert report.notes == (
        "2 documents of an interrupted run were completed from the lake",
        "3 documents are not listed but stay: their source could not be listed completely",
    )
    tally.letters.add([LETTER])
    assert tally.report("notes", 1, 2, stop).exit_code is ExitCode.DEAD_LETTERS
    stop.set("SIGTERM")
    ended = tally.report("notes", 1, 2, stop)
    assert ended.exit_code is ExitCode.TERMINATED
    assert ended.notes[-1].startswith("stopped by SIGTERM")
