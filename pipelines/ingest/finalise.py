"""The end of a run: deletes, flip, and the last manifest deltas, in the order that run.py explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from connectors.protocol import LoadingSink, Sink
from pipelines.ingest.diff import KeyFile, written_by
from pipelines.ingest.stores import Stores, delete_from
from pipelines.state.documents import REFUSED, leaving, tombstone
from pipelines.state.lease import Lease
from pipelines.state.manifest import DocumentRecord, Manifest, Wave

Batches = Callable[[], Iterable[Sequence[DocumentRecord]]]


@dataclass(frozen=True)
class Ending:
    """What the end of a run needs. `before_live` runs between the flip and the last deltas.

    `last_wave` numbers the deltas. `gone`: documents that leave the collection now, read anew at each call; none unless
    the listing was complete and all upserts were acknowledged. `removed`: documents that left it before, and that a
    store at work has still to delete.
    """

    run: int
    last_wave: int
    folder: Path
    manifest: Manifest
    stores: Stores
    lease: Lease
    gone: Batches
    removed: Batches
    publishing: Callable[[], None]
    before_live: Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """Chunks deleted from the store that lost most, and documents that left the collection; `removed` had left it
    before, and have left the stores now."""

    chunks_deleted: int
    gone: int
    removed: int


def finalise(ending: Ending) -> Ended:
    """Delete what documents no longer have, publish, and mark what this run wrote as done.

    The manifest hears of documents that are gone before their rows go: a run that dies in between leaves some rows
    deleted, and the document may be back, just as it was, when the next one looks.
    """
    stores = ending.stores
    deltas = _Deltas(ending)
    for batch in ending.gone():
        deltas.append([leaving(record) for record in batch])
    # A first load: whatever reads the manifest from here on would sort all its waves, or open them for every batch.
    ending.manifest.compact(only_if_grown=True)
    written = written_by(ending.run, ending.manifest, ending.folder)
    deleted = [_delete(name, written, ending) for name in stores.embedded]
    ending.lease.check()
    if any(sink.dirty for sink in stores.embedded.values()):
        ending.publishing()
    for sink in stores.embedded.values():
        sink.publish()
    deleted += [_delete(name, written, ending) for name in stores.servers]
    for name in stores.servers:
        stores.attempt(name, _settle)
    ending.before_live()
    gone, removed = _mark(written, ending, deltas)
    ending.manifest.compact()
    return Ended(max(deleted, default=0), gone, removed)


@dataclass
class _Deltas:
    """The last deltas of a run: bounded batches, each a commit of its own."""

    ending: Ending
    waves: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self.waves = count(self.first[1])

    @property
    def first(self) -> Wave:
        return self.ending.run, self.ending.last_wave + 1

    def append(self, records: Sequence[DocumentRecord]) -> None:
        if records:
            self.ending.lease.check()
            self.ending.manifest.append(self.ending.run, next(self.waves), records)


def _settle(server: Sink) -> None:
    server.flush()
    if isinstance(server, LoadingSink):
        server.finish_loading()


def _delete(store: str, written: KeyFile, ending: Ending) -> int:
    return delete_from(ending.stores, store, _doomed(store, written, ending), ending.lease.check)


def _doomed(store: str, written: KeyFile, ending: Ending) -> Iterator[str]:
    """Ids of obsolete chunks that the store may hold, and of all chunks of documents that are gone."""
    for records in written.records(ending.manifest):
        for record in records:
            if store in record.waiting():
                yield from record.obsolete_chunk_ids
    for batch in ending.gone():
        for record in batch:
            yield from _every_chunk(record)
    for batch in ending.removed():
        for record in batch:
            if store in record.waiting():
                yield from _every_chunk(record)


def _every_chunk(record: DocumentRecord) -> Iterator[str]:
    yield from record.chunk_ids
    yield from record.obsolete_chunk_ids


def _mark(written: KeyFile, ending: Ending, deltas: _Deltas) -> tuple[int, int]:
    """Write the last deltas; returns how many documents are gone, and how many were and have left every store now."""
    gone = removed = 0
    for records in written.records(ending.manifest, before=deltas.first):
        deltas.append([settled for record in records if (settled := _settled(record, ending)) != record])
    for batch in ending.gone():
        deltas.append([_removed(leaving(record), ending) for record in batch])
        gone += len(batch)
    for batch in ending.removed():
        rows = [_removed(record, ending) for record in batch]
        deltas.append(rows)
        removed += sum(not row.status for row in rows)
    return gone, removed


def _settled(record: DocumentRecord, ending: Ending) -> DocumentRecord:
    """What a store at work owed it has done by now; an absent one still waits."""
    absent = ending.stores.standing.absent
    waiting = [name for name in record.waiting() if name in absent]
    settled = {name: state if state == REFUSED else "done" for name, state in record.status.items()}
    status = {**settled, **dict.fromkeys(waiting, "pending")}
    return replace(record, status=status, obsolete_chunk_ids=record.obsolete_chunk_ids if waiting else ())


def _removed(record: DocumentRecord, ending: Ending) -> DocumentRecord:
    """The row of a document that is gone: it stays while an absent store has still to delete its chunks."""
    status = _settled(record, ending).status
    if "pending" in status.values():
        return replace(record, status=status, removed=True)
    return tombstone(record.key, ending.run)
