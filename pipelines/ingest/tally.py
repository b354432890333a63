"""The sums of a run while it works; at the end they are its report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from m3core.errors import ExitCode
from pipelines.ingest.commit import Committed
from pipelines.ingest.letters import Letters
from pipelines.ingest.memory import MemoryPeak
from pipelines.ingest.report import DocumentCounts, IngestReport
from pipelines.ingest.shared import Totals
from pipelines.ingest.stop import StopFlag


@dataclass
class Tally:
    """Counts by where they come from: the listing, the join (`classes`), the waves (`changes`), the end."""

    started: float
    memory: MemoryPeak
    letters: Letters = field(default_factory=Letters)
    listed: int = 0
    listing_failed: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    wave_failed: int = 0
    chunks_written: int = 0
    chunks_deleted: int = 0
    gone: int = 0
    totals: Totals = field(default_factory=Totals)

    def add_wave(self, committed: Committed) -> None:
        """Count what one wave committed."""
        self.changes.update(committed.changes)
        self.chunks_written += committed.chunks
        self.wave_failed += len(committed.letters)
        self.letters.add(committed.letters)

    @property
    def written(self) -> int:
        """Documents whose rows this run wrote."""
        return sum(self.changes[name] for name in ("new", "changed", "pending", "kept"))

    def documents(self) -> DocumentCounts:
        """The counts by document; what waves should have read and did not is pending."""
        owed = self.classes.get("owed", 0)
        planned = self.classes.get("read", 0) + self.classes.get("pending", 0) + owed
        completed = sum(self.changes[name] for name in ("new", "changed", "unchanged", "pending"))
        resumed = max(0, self.changes["pending"] - owed)
        return DocumentCounts(
            listed=self.listed + self.listing_failed,
            new=self.changes["new"],
            changed=self.changes["changed"],
            gone=self.gone,
            unchanged=self.classes.get("unchanged", 0) + self.changes["unchanged"] + resumed,
            failed=self.listing_failed + self.classes.get("duplicate", 0) + self.wave_failed,
            pending=max(0, planned - completed - self.wave_failed),
        )

    def report(self, collection: str, generation: int, run: int, stop: StopFlag) -> IngestReport:
        """The report of the run as far as it got."""
        return IngestReport(
            collection=collection,
            generation=generation,
            run=run,
            documents=self.documents(),
            chunks_written=self.chunks_written,
            chunks_deleted=self.chunks_deleted,
            tokens_encoded=self.totals.tokens_encoded,
            tokens_reused=self.totals.tokens_reused,
            seconds=time.monotonic() - self.started,
            encode_seconds=self.totals.encode_seconds,
            peak_bytes=self.memory.bytes(),
            peak_kind=self.memory.kind,
            exit_code=self._exit_code(stop),
            dead_letters=tuple(self.letters.first),
            new_dead_letters=self.letters.new,
            skipped=self.skipped,
            notes=tuple(self._notes(stop)),
        )

    def _exit_code(self, stop: StopFlag) -> ExitCode:
        if stop.signal:
            return ExitCode.TERMINATED
        return ExitCode.DEAD_LETTERS if self.letters.new else ExitCode.OK

    def _notes(self, stop: StopFlag) -> list[str]:
        notes = []
        if self.changes["pending"]:
            notes.append(f"{self.changes['pending']:,} documents of an interrupted run were completed from the lake")
        kept = self.classes.get("kept", 0) + self.classes.get("owed", 0)
        if kept:
            notes.append(f"{kept:,} documents are not listed but stay: their source could not be listed completely")
        if stop.signal:
            notes.append(f"stopped by {stop.signal}: finished documents are in; run m3 ingest again for the rest")
        return notes
