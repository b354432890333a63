"""What a run did, as one frozen value: its counts are documents, its JSON is a contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m3core.errors import ExitCode, M3Error

SCHEMA_VERSION = 1
_DEAD_LETTERS_SHOWN = 20


@dataclass(frozen=True)
class DocumentCounts:
    """Every listed document is in exactly one of added, changed, patched, unchanged, failed, pending; `deleted`
    ones are not listed.

    Of `patched` ones only metadata or rights changed. `pending` documents wait for another run: a run that was
    stopped left them out, or nothing was done because they are as they were and a store that is down waits for them.
    Added, changed and patched ones that a store has not got yet are counted in the report's `stores` only.
    """

    listed: int = 0
    added: int = 0
    changed: int = 0
    patched: int = 0
    deleted: int = 0
    unchanged: int = 0
    failed: int = 0
    pending: int = 0

    def as_json(self) -> dict[str, int]:
        """In the order of the fields."""
        return {
            "listed": self.listed,
            "added": self.added,
            "changed": self.changed,
            "patched": self.patched,
            "deleted": self.deleted,
            "unchanged": self.unchanged,
            "failed": self.failed,
            "pending": self.pending,
        }


@dataclass(frozen=True)
class FailedDocument:
    """One dead letter as a report shows it: no text, no secret."""

    tenant: str
    doc_id: str
    source: str
    stage: str
    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        """In the order of the fields."""
        return {
            "tenant": self.tenant,
            "doc_id": self.doc_id,
            "source": self.source,
            "stage": self.stage,
            "code": self.code,
            "message": self.message,
        }


@dataclass(frozen=True)
class StoreOutcome:
    """What a run left undone in one store: documents that wait for it, and why it was given up, if it was."""

    pending: int = 0
    error: M3Error | None = None

    def as_json(self) -> dict[str, Any]:
        """In the form that `m3 status --json` has."""
        error = self.error
        return {
            "pending": self.pending,
            "error": None if error is None else {"code": error.code, "message": error.message, "remedy": error.remedy},
        }


@dataclass(frozen=True)
class IngestReport:
    """The outcome of one run of `m3 ingest`, or of another command that writes rows."""

    collection: str
    generation: int
    run: int
    documents: DocumentCounts
    chunks_written: int
    chunks_deleted: int
    texts_encoded: int
    texts_reused: int
    tokens_encoded: int
    tokens_reused: int
    seconds: float
    encode_seconds: float
    peak_bytes: int
    peak_kind: str
    exit_code: ExitCode
    dead_letters: tuple[FailedDocument, ...] = ()
    new_dead_letters: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stores: Mapping[str, StoreOutcome] = field(default_factory=dict)
    command: str = "ingest"

    @property
    def tokens_per_second(self) -> float:
        """Tokens encoded per second of encoding."""
        return self.tokens_encoded / self.encode_seconds if self.encode_seconds > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 ingest --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "collection": self.collection,
            "generation": self.generation,
            "run": self.run,
            **self.documents.as_json(),
            "encoded_texts": self.texts_encoded,
            "reused_texts": self.texts_reused,
            "chunks": {"written": self.chunks_written, "deleted": self.chunks_deleted},
            "tokens": {"encoded": self.tokens_encoded, "reused": self.tokens_reused},
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "peak_anonymous_bytes": self.peak_bytes if self.peak_kind == "anonymous" else None,
            "peak_resident_bytes": self.peak_bytes if self.peak_kind == "resident" else None,
            "dead_letters": [letter.as_json() for letter in self.dead_letters[:_DEAD_LETTERS_SHOWN]],
            "new_dead_letters": self.new_dead_letters,
            "skipped": dict(self.skipped),
            "stores": {name: store.as_json() for name, store in self.stores.items()},
            "notes": list(self.notes),
            "exit_code": int(self.exit_code),
        }


def summary_lines(report: IngestReport) -> list[str]:
    """The end of a run for people: the counts line, what failed, throughput and memory."""
    counts = report.documents
    lines = [counts_line(counts) + f"   {spoken_duration(report.seconds)}"]
    if report.tokens_encoded or report.tokens_reused:
        reused = f", {report.tokens_reused:,} reused" if report.tokens_reused else ""
        pace = f" at {report.tokens_per_second:,.0f} tokens/s" if report.tokens_encoded else ""
        lines.append(f"{report.chunks_written:,} chunks, {report.tokens_encoded:,} tokens encoded{pace}{reused}")
    lines.append(f"peak memory {report.peak_bytes / (1 << 20):,.0f} MiB {report.peak_kind}")
    if report.skipped:
        lines.append("skipped " + " · ".join(f"{count:,} {kind}" for kind, count in sorted(report.skipped.items())))
    if counts.failed:
        noun = "document" if counts.failed == 1 else "documents"
        known = counts.failed - min(counts.failed, report.new_dead_letters)
        lines.append(f"{counts.failed:,} {noun} failed" + (f", {known:,} of them known before" if known else "") + ":")
        lines += [f"  {letter.doc_id or letter.source}: {letter.message}" for letter in report.dead_letters[:5]]
        if counts.failed > len(report.dead_letters[:5]):
            lines.append(f"  ... and {counts.failed - len(report.dead_letters[:5]):,} more")
    return lines + list(report.notes)


def counts_line(counts: DocumentCounts) -> str:
    """`+ 60   ~ 391   - 2   = 40,690   failed 1   pending 453`; failed and pending only if there are any, and patched
    documents count as changed.
    """
    changed = counts.changed + counts.patched
    parts = [f"+ {counts.added:,}", f"~ {changed:,}", f"- {counts.deleted:,}", f"= {counts.unchanged:,}"]
    parts += [f"{name} {count:,}" for name, count in (("failed", counts.failed), ("pending", counts.pending)) if count]
    return "   ".join(parts)


def spoken_duration(seconds: float) -> str:
    """`2 min 11 s`, `41 s`, `0.8 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
