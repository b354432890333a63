"""What a run that died left in the stores, taken into the manifest before the next run looks at it.

A run writes chunk files, then rows into the stores, then the wave's manifest delta. Dead in between, it leaves rows in
servers that no manifest names: chunks of a version that may change again before the next run, and, under ids that the
manifest does name, text, rights or metadata newer than it says. The chunk files of its last wave name them all, and
`unsettled` beside them says that nobody has looked yet (`state/chunks.py`).

So the next run, whichever command it is, first makes the manifest say what the stores may hold. Per document that was
touched and not committed: ids that it does not have become obsolete ones (for a document that the manifest does not
know: a row of one that is gone), and rows that it has get a revision of this run, because a fenced store refuses older
ones. All of it waits for every store, and goes the way of everything that waits: written from chunk files and lake,
deleted after the acknowledgements, remembered for a store that is down. Generations that follow have all of their
stores or none (`follower.py`), so that there it is done at once.

The rows come before the delta, and the marks go last: a run that dies in here is adopted by the next one in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pipelines.ingest.session import Asked, Run
from pipelines.state.batches import in_batches
from pipelines.state.chunks import ChunkFiles
from pipelines.state.documents import DocumentKey, tombstone
from pipelines.state.manifest import DocumentRecord, Manifest

_CHUNKS_PER_FILE = 1000


@dataclass
class Touched:
    """What died runs may have written of one document: chunk ids, and the last of the runs."""

    ids: set[str] = field(default_factory=set)
    run: int = 0

    def differs_from(self, record: DocumentRecord | None) -> bool:
        """Whether stores may hold rows that the record does not tell of."""
        return record is None or record.removed or record.revision < self.run or bool(self.beyond(record))

    def beyond(self, record: DocumentRecord | None) -> list[str]:
        """Chunk ids that the record does not have."""
        return sorted(self.ids.difference(() if record is None or record.removed else record.chunk_ids))


def adopt(run: Run[Asked]) -> int:
    """Take in what died runs left in the run's generation; how many documents that were. Under the lease."""
    chunk_files = ChunkFiles(run.request.paths, run.generation.number)
    dead = chunk_files.unsettled(run.number)
    if not dead:
        return 0
    touched = find_touched(chunk_files, dead, run.manifest)
    known = run.manifest.find(touched, removed=True)
    records = [_adopted(key, each, known.get(key), run) for key, each in sorted(touched.items())]
    renewed = [record for record in records if record.revision == run.number and not record.removed]
    _copy_rows(renewed, known, run, chunk_files)
    run.lease.check()
    run.manifest.append(*_next_wave(run.manifest, dead), records)
    for number in dead:
        chunk_files.settle(number)
    return len(records)


def find_touched(chunk_files: ChunkFiles, dead: Iterable[int], manifest: Manifest) -> dict[DocumentKey, Touched]:
    """Documents of which stores may hold what the manifest does not tell. Little is in memory but those: as a rule
    one wave of each run."""
    found: dict[DocumentKey, Touched] = {}
    last = manifest.last_wave()
    for run in sorted(dead):
        for owners in chunk_files.owners(run, last[1] if last[0] == run else -1):
            batch = {key: found.get(key) or Touched() for _, key in owners}
            for chunk_id, key in owners:
                batch[key].ids.add(chunk_id)
                batch[key].run = run
            known = manifest.find(batch)
            found.update((key, each) for key, each in batch.items() if each.differs_from(known.get(key)))
    return found


def _adopted(key: DocumentKey, touched: Touched, old: DocumentRecord | None, run: Run[Asked]) -> DocumentRecord:
    """The record that also tells what the stores may hold, for every store to be put right."""
    waiting = {binding.name: "pending" for binding in run.generation.stores}
    if old is None or old.removed:
        ids = touched.ids.union(*((old.chunk_ids, old.obsolete_chunk_ids) if old else ()))
        return replace(tombstone(key, run.number), chunk_ids=tuple(sorted(ids)), status=waiting)
    obsolete = {*old.obsolete_chunk_ids, *touched.beyond(old)}
    revision = run.number if old.revision < touched.run else old.revision
    return replace(old, obsolete_chunk_ids=tuple(sorted(obsolete)), status=waiting, revision=revision)


def _copy_rows(
    renewed: Iterable[DocumentRecord],
    known: Mapping[DocumentKey, DocumentRecord],
    run: Run[Asked],
    chunk_files: ChunkFiles,
) -> None:
    """The chunk rows of documents that get this run's revision, in its files; what is lost is told when it is used."""
    for part, pairs in enumerate(in_batches(_revisions(renewed, known), _CHUNKS_PER_FILE)):
        revisions = dict(pairs)
        rows = [replace(row, run=run.number) for row in chunk_files.read(revisions, revisions)]
        if rows:
            run.before_write()
            chunk_files.write(run.number, 0, f"adopted-{part:05d}", rows)


def _revisions(
    renewed: Iterable[DocumentRecord], known: Mapping[DocumentKey, DocumentRecord]
) -> Iterator[tuple[str, int]]:
    """Chunk ids, and the run that wrote the rows that count."""
    for record in renewed:
        for chunk_id in record.chunk_ids:
            yield chunk_id, known[record.key].revision


def _next_wave(manifest: Manifest, dead: Iterable[int]) -> tuple[int, int]:
    """The wave is told as the last one of the runs that died: what this run commits is what it has brought."""
    run, wave = manifest.last_wave()
    last = max(dead)
    return (last, 0) if last > run else (run, wave + 1)
