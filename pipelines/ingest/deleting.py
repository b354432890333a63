"""`m3 delete`: named documents leave the stores and the manifest; what the lake has of them stays for a next time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3core.config.model import Config
from pipelines.ingest.diff import KeyFile
from pipelines.ingest.following import Left
from pipelines.ingest.progress import Progress
from pipelines.ingest.replay import begin_existing, existing, session_of
from pipelines.ingest.report import SCHEMA_VERSION, IngestReport
from pipelines.ingest.running import conclude, perform, stores_for
from pipelines.ingest.session import Run, Session
from pipelines.ingest.stores import Standing
from pipelines.ingest.tally import Tally
from pipelines.state.batches import in_batches
from pipelines.state.manifest import DocumentKey, DocumentRecord, Manifest

_BATCH = 1000


@dataclass(frozen=True)
class Deleted:
    """What was, or (`dry_run`) would be deleted. `missing`: ids of documents that the collection has not."""

    documents: int
    chunks: int
    missing: tuple[str, ...]
    report: IngestReport | None = None

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 delete --json` prints: the run's report, and what was not there."""
        if self.report is not None:
            return {**self.report.as_json(), "missing": list(self.missing)}
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "delete",
            "dry_run": True,
            "deleted": self.documents,
            "chunks": {"deleted": self.chunks},
            "missing": list(self.missing),
        }


@dataclass(frozen=True)
class DeleteRequest:
    """Which documents. `lock_wait`: seconds to wait for another writer."""

    tenant: str
    doc_ids: tuple[str, ...]
    lock_wait: float = 0.0

    @property
    def keys(self) -> list[DocumentKey]:
        """Keys of the documents, each once, in order."""
        return [(self.tenant, doc_id) for doc_id in sorted(set(self.doc_ids))]


def would_delete(config: Config, base: Path, progress: Progress, request: DeleteRequest) -> Deleted:
    """What `delete_documents` would do; nothing is asked and nothing changed."""
    session = session_of(config, base, progress, "delete")
    records = _find(Manifest(session.paths, existing(session).number), request.keys)
    return _summary(request, records)


def delete_documents(config: Config, base: Path, progress: Progress, request: DeleteRequest) -> Deleted:
    """Delete documents from every store; a server that is down remembers it in the manifest (exit 4).

    Raises UsageError (no collection), RefusedError (other stores are configured), LockedError, StoreError.
    """
    session = session_of(config, base, progress, "delete")
    found: list[DocumentRecord] = []

    def work(run: Run[Session], tally: Tally) -> None:
        run.manifest.compact()
        found.extend(_find(run.manifest, request.keys))
        # Also those that only another generation has.
        tally.left = Left(keys=KeyFile.of(in_batches(request.keys, _BATCH), run.work / "left.parquet"))
        _delete(run, tally, found)
        run.folder.close_dead_letters(complete=False, resolved=request.keys)

    report = perform(session, request.lock_wait, lambda lease: begin_existing(session, lease), work)
    summary = _summary(request, found)
    return Deleted(summary.documents, report.chunks_deleted, summary.missing, report)


def _delete(run: Run[Session], tally: Tally, records: Sequence[DocumentRecord]) -> None:
    standing = Standing.of(run.generation)
    tally.standing, tally.waiting = standing, run.manifest.counts().pending
    if not records:
        return
    gone = [record for record in records if not record.removed]
    removed = [record for record in records if record.removed]
    with stores_for(run, standing) as stores:
        stores.open_rest()
        conclude(
            run,
            stores,
            tally,
            last_wave=0,
            gone=lambda: in_batches(gone, _BATCH),
            removed=lambda: in_batches(removed, _BATCH),
            may_go_live=False,
        )


def _find(manifest: Manifest, keys: Collection[DocumentKey]) -> list[DocumentRecord]:
    """Records of the documents that are there, or that a store has still to delete."""
    return [record for part in in_batches(keys, _BATCH) for record in manifest.find(part, removed=True).values()]


def _summary(request: DeleteRequest, records: Sequence[DocumentRecord]) -> Deleted:
    there = {record.key: record for record in records if not record.removed}
    missing = tuple(doc_id for tenant, doc_id in request.keys if (tenant, doc_id) not in there)
    return Deleted(len(there), sum(len(record.chunk_ids) for record in there.values()), missing)
