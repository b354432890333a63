"""The sums of a run while it works; at the end they are its report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from m3core.errors import ExitCode
from m3core.terminal import counted
from pipelines.ingest.commit import Committed
from pipelines.ingest.following import Left
from pipelines.ingest.letters import Letters
from pipelines.ingest.memory import MemoryPeak
from pipelines.ingest.report import DocumentCounts, IngestReport, StoreOutcome
from pipelines.ingest.shared import Totals
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.stores import Standing


@dataclass
class Tally:
    """Counts by where they come from: the listing, the join (`classes`), the waves (`changes`), the end.

    `waiting`: documents by the store that they wait for. `left`: those that are gone, which the other generations lose
    too; `behind`: a line for each generation that could not follow; `disk`: a line if little of it is free.
    """

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
    removed: int = 0
    totals: Totals = field(default_factory=Totals)
    standing: Standing = field(default_factory=lambda: Standing(()))
    waiting: Mapping[str, int] = field(default_factory=dict)
    lost_vectors: int = 0
    left: Left = field(default_factory=Left)
    behind: list[str] = field(default_factory=list)
    disk: str = ""

    def add_wave(self, committed: Committed) -> None:
        """Count what one wave committed."""
        self.changes.update(committed.changes)
        self.chunks_written += committed.chunks
        self.wave_failed += len(committed.letters)
        self.letters.add(committed.letters)

    @property
    def written(self) -> int:
        """Documents whose rows this run wrote."""
        return sum(self.changes[name] for name in ("added", "changed", "patched", "pending", "kept", "refused"))

    @property
    def may_wait(self) -> bool:
        """Whether documents may wait for a store at the end; otherwise counting them is not worth it."""
        return bool(self.standing.absent or self.waiting)

    def documents(self) -> DocumentCounts:
        """The counts by document; what waves should have read and did not is pending."""
        owed = self.classes.get("owed", 0)
        planned = self.classes.get("read", 0) + self.classes.get("pending", 0) + owed
        completed = sum(self.changes[name] for name in ("added", "changed", "patched", "unchanged", "pending"))
        resumed = max(0, self.changes["pending"] - owed)
        return DocumentCounts(
            listed=self.listed + self.listing_failed,
            added=self.changes["added"],
            changed=self.changes["changed"],
            patched=self.changes["patched"],
            deleted=self.gone,
            unchanged=self.classes.get("unchanged", 0) + self.changes["unchanged"] + resumed,
            failed=self.listing_failed + self.classes.get("duplicate", 0) + self.wave_failed,
            pending=self.classes.get("waiting", 0) + max(0, planned - completed - self.wave_failed),
        )

    def report(self, command: str, collection: str, generation: int, run: int, stop: StopFlag) -> IngestReport:
        """The report of the run as far as it got."""
        return IngestReport(
            collection=collection,
            generation=generation,
            run=run,
            documents=self.documents(),
            chunks_written=self.chunks_written,
            chunks_deleted=self.chunks_deleted,
            texts_encoded=self.totals.texts_encoded,
            texts_reused=self.totals.texts_reused,
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
            notes=tuple(self._notes(command, stop)),
            stores={
                name: StoreOutcome(self.waiting.get(name, 0), self.standing.absent.get(name))
                for name in self.standing.names
            },
            command=command,
        )

    def _exit_code(self, stop: StopFlag) -> ExitCode:
        if stop.signal:
            return ExitCode.TERMINATED
        if self.lost_vectors or any(self.waiting.get(name) for name in self._asked()):
            return ExitCode.PENDING
        return ExitCode.DEAD_LETTERS if self.letters.new else ExitCode.OK

    def _notes(self, command: str, stop: StopFlag) -> list[str]:
        notes: list[str] = []
        if self.changes["pending"]:
            notes.append(f"{counted(self.changes['pending'], 'document')} that waited for a store came from the lake")
        kept = self.classes.get("kept", 0) + self.classes.get("owed", 0)
        if kept:
            notes.append(f"{kept:,} documents are not listed but stay: their source could not be listed completely")
        if self.lost_vectors:
            lost = counted(self.lost_vectors, "document")
            notes.append(f"the lake has lost vectors of {lost}. Remedy: m3 ingest encodes them again")
        notes += self._waiting_notes(command)
        notes += self.behind
        if self.disk:
            notes.append(f"{self.disk}. Remedy: m3 gc, or a larger disk")
        if stop.signal:
            notes.append(f"stopped by {stop.signal}: finished documents are in; run m3 {command} again for the rest")
        return notes

    def _asked(self) -> list[str]:
        """Stores that this run was to bring up to date."""
        absent = self.standing.absent
        return [name for name in self.standing.names if name not in absent or absent[name] is not None]

    def _waiting_notes(self, command: str) -> list[str]:
        """A line for each store that something waits for, or that was given up."""
        if command == "embed":
            most = max(self.waiting.values(), default=0)
            return [f"{counted(most, 'document')} to be loaded: m3 load"] if most else []
        notes = []
        for name in self._asked():
            waiting, error = self.waiting.get(name, 0), self.standing.absent.get(name)
            why = "" if error is None else f" ({error.message})"
            if waiting:
                verb = "waits" if waiting == 1 else "wait"
                what = f"{counted(waiting, 'document')} {verb} for store {name}{why}"
                notes.append(f"{what}. Remedy: m3 load --pending")
            elif error is not None:
                notes.append(f"store {name} was given up, but nothing waits for it{why}")
        return notes
