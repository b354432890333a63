"""The report: its JSON is a contract, its text is calm."""

from __future__ import annotations

from m3core.errors import ExitCode
from pipelines.ingest.report import (
    DocumentCounts,
    FailedDocument,
    IngestReport,
    StoreOutcome,
    counts_line,
    spoken_duration,
    summary_lines,
)

LETTER = FailedDocument("default", "a.md", "a.md", "read", "document", "a.md: text is empty. Remedy: fill it")
REPORT = IngestReport(
    collection="handbook",
    generation=3,
    run=118,
    documents=DocumentCounts(
        listed=41_202, added=60, changed=380, patched=11, deleted=2, unchanged=40_690, failed=1, pending=60
    ),
    chunks_written=902,
    chunks_deleted=12,
    texts_encoded=57,
    texts_reused=9,
    tokens_encoded=10_040,
    tokens_reused=1204,
    seconds=131.2345,
    encode_seconds=2.0,
    peak_bytes=512 << 20,
    peak_kind="anonymous",
    exit_code=ExitCode.DEAD_LETTERS,
    dead_letters=(LETTER,),
    new_dead_letters=1,
    skipped={"hidden": 3, "unsupported": 1},
    notes=("a note",),
    stores={"main": StoreOutcome()},
)


def test_the_json_is_fixed() -> None:
    assert REPORT.as_json() == {
        "schema_version": 1,
        "command": "ingest",
        "collection": "handbook",
        "generation": 3,
        "run": 118,
        "listed": 41_202,
        "added": 60,
        "changed": 380,
        "patched": 11,
        "deleted": 2,
        "unchanged": 40_690,
        "failed": 1,
        "pending": 60,
        "encoded_texts": 57,
        "reused_texts": 9,
        "chunks": {"written": 902, "deleted": 12},
        "tokens": {"encoded": 10_040, "reused": 1204},
        "seconds": 131.234,
        "tokens_per_second": 5020.0,
        "peak_anonymous_bytes": 536_870_912,
        "peak_resident_bytes": None,
        "dead_letters": [
            {
                "tenant": "default", "doc_id": "a.md", "source": "a.md", "stage": "read", "code": "document",
                "message": "a.md: text is empty. Remedy: fill it",
            }
        ],
        "new_dead_letters": 1,
        "skipped": {"hidden": 3, "unsupported": 1},
        "stores": {"main": {"pending": 0, "error": None}},
        "notes": ["a note"],
        "exit_code": 3,
    }  # fmt: skip


def test_the_summary_says_counts_pace_memory_and_what_failed() -> None:
    assert summary_lines(REPORT) == [
        "+ 60   ~ 391   - 2   = 40,690   failed 1   pending 60   2 min 11 s",
        "902 chunks, 10,040 tokens encoded at 5,020 tokens/s, 1,204 reused",
        "peak memory 512 MiB anonymous",
        "skipped 3 hidden · 1 unsupported",
        "1 document failed:",
        "  a.md: a.md: text is empty. Remedy: fill it",
        "a note",
    ]


def test_counts_that_are_zero_are_left_out_where_they_say_nothing() -> None:
    assert counts_line(DocumentCounts(unchanged=3)) == "+ 0   ~ 0   - 0   = 3"


def test_durations() -> None:
    assert [spoken_duration(seconds) for seconds in (0.84, 41.4, 131.2)] == ["0.8 s", "41 s", "2 min 11 s"]
