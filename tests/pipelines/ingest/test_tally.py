"""The arithmetic of the report's counts."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from m3core.errors import ExitCode, StoreError
from pipelines.ingest.commit import Committed
from pipelines.ingest.memory import MemoryPeak
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.stores import Standing
from pipelines.ingest.tally import Tally
from pipelines.state.runs import DeadLetter

LETTER = DeadLetter("read", "default", "a.md", "a.md", "document", "text is empty")


def tally_of(classes: dict[str, int], changes: dict[str, int], letters: int = 0) -> Tally:
    listed = sum(classes.get(name, 0) for name in ("read", "pending", "waiting", "unchanged", "duplicate"))
    tally = Tally(time.monotonic(), MemoryPeak(), listed=listed, classes=classes)
    tally.add_wave(Committed(Counter(changes), sum(changes.values()), [LETTER] * letters))
    return tally


@pytest.mark.parametrize(
    ("classes", "changes", "letters", "expected"),
    [
        ({"read": 5}, {"added": 5}, 0, (5, 0, 0, 0, 0, 0)),
        ({"read": 6, "unchanged": 3}, {"added": 1, "changed": 1, "patched": 1, "unchanged": 2}, 1, (1, 1, 1, 5, 1, 0)),
        ({"read": 5, "duplicate": 1}, {"added": 2}, 1, (2, 0, 0, 0, 2, 2)),
        ({"pending": 4, "read": 1}, {"pending": 3, "added": 1}, 0, (1, 0, 0, 3, 0, 1)),
        ({"waiting": 2, "unchanged": 1}, {}, 0, (0, 0, 0, 1, 0, 2)),
        # Owed documents are not listed: their rows are written, and they are in no count.
        ({"owed": 2, "unchanged": 1}, {"pending": 2}, 0, (0, 0, 0, 1, 0, 0)),
        # A failed document whose old version was brought along is failed, once.
        ({"read": 1}, {"kept": 1}, 1, (0, 0, 0, 0, 1, 0)),
    ],
)
def test_every_listed_document_is_in_exactly_one_count(
    classes: dict[str, int], changes: dict[str, int], letters: int, expected: tuple[int, ...]
) -> None:
    counts = tally_of(classes, changes, letters).documents()
    found = (
        *(counts.added, counts.changed, counts.patched),
        *(counts.unchanged, counts.failed, counts.pending),
    )
    assert found == expected
    assert sum(found) == counts.listed


def test_exit_codes_and_notes() -> None:
    stop = StopFlag()
    tally = tally_of({"pending": 2, "kept": 3}, {"pending": 2}, 0)
    report = tally.report("ingest", "notes", 1, 2, stop)
    assert report.exit_code is ExitCode.OK
    assert report.notes == (
        "2 documents that waited for a store came from the lake",
        "3 documents are not listed but stay: their source could not be listed completely",
    )
    tally.letters.add([LETTER])
    assert tally.report("ingest", "notes", 1, 2, stop).exit_code is ExitCode.DEAD_LETTERS
    stop.set("SIGTERM")
    ended = tally.report("ingest", "notes", 1, 2, stop)
    assert ended.exit_code is ExitCode.TERMINATED
    assert ended.notes[-1].startswith("stopped by SIGTERM")


def test_what_waits_for_a_store_is_told_with_its_remedy() -> None:
    stop = StopFlag()
    tally = tally_of({"read": 3}, {"added": 3}, letters=1)
    tally.standing = Standing(("main", "words"), absent={"words": StoreError("the server is down", "start it")})
    tally.waiting = {"words": 3}
    report = tally.report("ingest", "notes", 1, 2, stop)
    assert report.exit_code is ExitCode.PENDING  # before dead letters
    assert "3 documents wait for store words (the server is down). Remedy: m3 load --pending" in report.notes
    assert report.as_json()["stores"] == {
        "main": {"pending": 0, "error": None},
        "words": {
            "pending": 3,
            "error": {"code": "store", "message": "the server is down", "remedy": "start it"},
        },
    }
    tally.waiting = {}
    calm = tally.report("ingest", "notes", 1, 2, stop)
    assert calm.exit_code is ExitCode.DEAD_LETTERS
    assert calm.notes == ("store words was given up, but nothing waits for it (the server is down)",)


def test_a_store_that_was_not_asked_for_may_wait() -> None:
    tally = tally_of({"read": 3}, {"added": 3})
    tally.standing = Standing(("main",), absent={"main": None})
    tally.waiting = {"main": 3}
    report = tally.report("embed", "notes", 1, 2, StopFlag())
    assert (report.exit_code, report.notes) == (ExitCode.OK, ("3 documents to be loaded: m3 load",))
