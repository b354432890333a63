"""The end of a run: deletes, flip, and the last manifest deltas, in the order that run.py explains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from connectors.protocol import LoadingSink
from pipelines.ingest.diff import KeyFile, Work, gone_records, written_by
from pipelines.ingest.stores import Stores, delete_all
from pipelines.state.lease import Lease
from pipelines.state.manifest import DocumentRecord, Manifest


@dataclass(frozen=True)
class Ending:
    """What the end of a run needs. `before_live` runs between the flip and the last deltas.

    `last_wave` numbers the deltas; `delete_gone` only after a complete listing and when all upserts were acknowledged.
    """

    run: int
    last_wave: int
    folder: Path
    manifest: Manifest
    stores: Stores
    lease: Lease
    work: Work
    delete_gone: bool
    publishing: Callable[[], None]
    before_live: Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """Chunks deleted from the stores, and documents that left the collection."""

    chunks_deleted: int
    gone: int


def finalise(ending: Ending) -> Ended:
    """Delete what documents no longer have, publish, and mark what this run wrote as done."""
    written = written_by(ending.run, ending.manifest, ending.folder)
    deleted = delete_all(ending.stores.embedded.values(), _doomed(written, ending), ending.lease.check)
    ending.lease.check()
    if any(sink.dirty for sink in ending.stores.embedded.values()):
        ending.publishing()
    for sink in ending.stores.embedded.values():
        sink.publish()
    deleted = max(deleted, delete_all(ending.stores.others.values(), _doomed(written, ending), ending.lease.check))
    for other in ending.stores.others.values():
        other.flush()
        if isinstance(other, LoadingSink):
            other.finish_loading()
    ending.before_live()
    gone = _mark(written, ending)
    ending.manifest.compact()
    return Ended(deleted, gone)


def _doomed(written: KeyFile, ending: Ending) -> Iterator[str]:
    """Ids of obsolete chunks, and of all chunks of documents that are gone."""
    for records in written.records(ending.manifest):
        for record in records:
            yield from record.obsolete_chunk_ids
    for record in _gone(ending):
        yield from record.chunk_ids
        yield from record.obsolete_chunk_ids


def _gone(ending: Ending) -> Iterator[DocumentRecord]:
    if ending.delete_gone:
        for records in gone_records(ending.work, ending.manifest):
            yield from records


def _mark(written: KeyFile, ending: Ending) -> int:
    """Write the last deltas; returns how many documents are gone. Bounded batches, each a commit of its own."""
    wave = ending.last_wave
    for records in written.records(ending.manifest):
        wave += 1
        ending.lease.check()
        ending.manifest.append(ending.run, wave, [_done(record) for record in records])
    gone = [record.key for record in _gone(ending)]
    if gone:
        ending.lease.check()
        ending.manifest.append(ending.run, wave + 1, [], removed=gone)
    return len(gone)


def _done(record: DocumentRecord) -> DocumentRecord:
    return replace(record, status=dict.fromkeys(record.status, "done"), obsolete_chunk_ids=())
