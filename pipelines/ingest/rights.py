"""`m3 ingest --only-acl`: who may see what, as the sources say it now, and nothing else; neither model nor Beam.

Of every document whose listing entry changed the acl is compared with the manifest's. Where it differs, the rows that
are there get the new one: from chunk files and lake, under this run's revision, into every store. A text or metadata
that changed too stays as it was, and the document keeps its old stamp, so that the next ingest reads it. New and gone
documents are an ingest's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from m3core.config.model import Config
from m3core.errors import DocumentError, StoreError
from pipelines.ingest import diff
from pipelines.ingest.commit import Outcome
from pipelines.ingest.embed import split_known
from pipelines.ingest.ids import text_hash
from pipelines.ingest.listing import document_letter
from pipelines.ingest.load import load
from pipelines.ingest.plain import PlainStep, plain_waves
from pipelines.ingest.progress import Progress
from pipelines.ingest.progress_text import Planned
from pipelines.ingest.reading import Found, Group, ItemGroup, Prepared, lost_letter
from pipelines.ingest.refilling import find_lost
from pipelines.ingest.report import IngestReport
from pipelines.ingest.run import begin_writing, request_of
from pipelines.ingest.running import conclude, listing_for, perform, stores_for
from pipelines.ingest.session import IngestOptions, Request, Run
from pipelines.ingest.sources import SourceItem
from pipelines.ingest.stores import Standing, Stores
from pipelines.ingest.tally import Tally
from pipelines.ingest.waves import WaveLimits, cut_waves, item_groups, wanted_items
from pipelines.state.chunks import ChunkFiles, ChunkRow
from pipelines.state.documents import MIXED
from pipelines.state.manifest import DocumentRecord
from pipelines.state.runs import DeadLetter


def apply_acls(config: Config, base: Path, progress: Progress, *, options: IngestOptions | None = None) -> IngestReport:
    """Bring the stores the acl of every document that they have; `patched` documents of the report got another one.

    Raises what `ingest` raises, except that nothing is deleted and so nothing refused for it.
    """
    options = options or IngestOptions()
    request = request_of(config, base, progress, options, "ingest --only-acl")
    return perform(request, options.lock_wait, lambda lease: begin_writing(request, lease), _work)


class _Found(Found):
    """A document as its source has it now, beside the record of what the stores have."""

    @property
    def acl_hash(self) -> str:
        return self.hashes[2]

    def is_otherwise_as(self, old: DocumentRecord) -> bool:
        """Whether content and metadata are as they were."""
        return self.hashes[:2] == (old.content_hash, old.metadata_hash)

    def noted_in(self, old: DocumentRecord) -> DocumentRecord:
        """With the new stamp if nothing else is left to do; otherwise the next ingest must read it."""
        return replace(old, stamp=self.item.stamp, source=self.item.source) if self.is_otherwise_as(old) else old

    def applied_to(self, old: DocumentRecord, run: int) -> DocumentRecord:
        """The old version under the new acl, which no store has yet."""
        waiting = dict.fromkeys(old.status, "pending")
        noted = self.noted_in(replace(old, stamp=MIXED))
        return replace(noted, acl_hash=self.acl_hash, revision=run, status=waiting)


@dataclass
class _Changes:
    """What one group of items amounts to."""

    documents: list[Prepared] = field(default_factory=list)
    rows: list[ChunkRow] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


def _work(run: Run[Request], tally: Tally) -> None:
    request = run.request
    listing = listing_for(run)
    run.manifest.compact()
    known = run.manifest.counts()
    standing = Standing.of(run.generation)
    tally.standing, tally.waiting = standing, known.pending
    with stores_for(run, standing) as stores:
        if known.documents:
            stores.open_servers()
            _leave_out_lost(run, stores)
        work = diff.join(listing, run.manifest, run.work, standing)
        tally.listed, tally.listing_failed = listing.items, listing.failed
        tally.skipped, tally.classes = listing.skipped, work.counts
        wanted = diff.known_places(work)
        request.progress.planned(
            Planned(
                listed=listing.items + listing.failed,
                unchanged=work.count("unchanged"),
                to_read=len(wanted),
                pending=0,
                gone=0,
                to_read_bytes=work.listed_bytes,
            )
        )
        if len(wanted) and not request.stop:
            stores.open_rest()
            waves = _waves(run, stores, wanted, tally)
            conclude(run, stores, tally, last_wave=waves, may_go_live=False)
    run.folder.close_dead_letters(complete=False)


def _leave_out_lost(run: Run[Request], stores: Stores) -> None:
    """A store that lost its rows gets them, and the new rights with them, from a run that fills it whole again."""
    find_lost(run, stores)
    for name in sorted(stores.standing.lost):
        stores.give_up(name, StoreError(f"store {name!r} has lost its rows", "m3 load"))
    stores.standing.lost = frozenset()


def _waves(run: Run[Request], stores: Stores, wanted: diff.Wanted, tally: Tally) -> int:
    limits = WaveLimits.of(run.request.config)
    groups = item_groups(wanted_items(run.request.sources, wanted), limits)

    def bring(group: Group, wave: int, step: PlainStep) -> Iterator[Outcome]:
        if isinstance(group, ItemGroup):
            yield from _bring(_changes(group.items, run, step.chunk_files), wave, run, step, tally)

    return plain_waves(run, stores, cut_waves(groups, (), limits), bring, tally)


def _bring(changes: _Changes, wave: int, run: Run[Request], step: PlainStep, tally: Tally) -> Iterator[Outcome]:
    """Chunk file first, then the stores."""
    yield from changes.documents
    yield from changes.letters
    if changes.rows:
        name = text_hash("".join(row.chunk.id for row in changes.rows))[:32]
        step.chunk_files.write(run.number, wave, name, changes.rows)
        known, new = split_known(changes.rows, step.load.lake)
        tally.lost_vectors += len({(row.chunk.tenant, row.chunk.doc_id) for row in new})
        yield load(known, step.load)


def _changes(items: Sequence[SourceItem], run: Run[Request], chunk_files: ChunkFiles) -> _Changes:
    changes = _Changes()
    found: list[_Found] = []
    for item in items:
        source = run.request.sources[item.source]
        try:
            found.append(_Found(item, source.read(item)))
        except DocumentError as error:
            changes.letters.append(document_letter("read", item, source.identify(item) or ("", ""), error))
    known = run.manifest.find({each.key for each in found})
    pairs = [(each, known[each.key]) for each in found if each.key in known]
    kept = _kept_rows([old for each, old in pairs if each.acl_hash != old.acl_hash], chunk_files)
    for each, old in pairs:
        if each.acl_hash == old.acl_hash:
            if each.is_otherwise_as(old) and not old.waiting():
                changes.documents.append(Prepared(each.noted_in(old), "unchanged"))
        elif not all(chunk_id in kept for chunk_id in old.chunk_ids):
            changes.letters.append(lost_letter(old))
        else:
            changes.documents.append(Prepared(each.applied_to(old, run.number), "patched"))
            rows = (kept[chunk_id] for chunk_id in old.chunk_ids)
            changes.rows += [
                replace(row, chunk=replace(row.chunk, acl=each.document.acl), run=run.number) for row in rows
            ]
    return changes


def _kept_rows(records: Sequence[DocumentRecord], chunk_files: ChunkFiles) -> dict[str, ChunkRow]:
    revisions = {chunk_id: record.revision for record in records for chunk_id in record.chunk_ids}
    return {row.chunk.id: row for row in chunk_files.read(revisions, revisions)}
