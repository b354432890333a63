"""`m3 load`: what waits for a store goes there, from chunk files and lake alone: no source, no model, no Beam.

Documents wait because `m3 embed` left them, because a store was down, or because a run died before its flip. Their rows
are written with the revision that the manifest names, so that the other stores stay as they are; each wave is
committed, and the end is that of any run: deletes, flip, last deltas. Killed anywhere, it is repeated by the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from connectors.snapshots.disk import require_free
from m3core.config.model import Config
from m3core.errors import RefusedError, UsageError
from m3core.nearest import did_you_mean
from pipelines.ingest import diff
from pipelines.ingest.commit import Outcome
from pipelines.ingest.embed import split_known
from pipelines.ingest.generation import bindings, current
from pipelines.ingest.load import load
from pipelines.ingest.plain import PlainStep, plain_waves
from pipelines.ingest.progress import Progress
from pipelines.ingest.progress_text import Planned
from pipelines.ingest.reading import Group, Prepared, RecordGroup, lost_letter, parts_of
from pipelines.ingest.refilling import find_lost, settle_refills
from pipelines.ingest.report import SCHEMA_VERSION, IngestReport
from pipelines.ingest.restoring import restore
from pipelines.ingest.running import conclude, perform, stores_for
from pipelines.ingest.session import Run, Session
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.stores import Standing, Stores
from pipelines.ingest.tally import Tally
from pipelines.ingest.waves import WaveLimits, cut_waves, record_groups
from pipelines.state.collection import CollectionState, Generation, begin_run, read_collection
from pipelines.state.lease import Lease
from pipelines.state.manifest import DocumentRecord, Manifest
from pipelines.state.refills import read_refills
from pipelines.state.storage import storage_of


@dataclass(frozen=True)
class LoadOptions:
    """What a caller may ask: `only` these stores (all, if there are none); `pending_only`: only stores that something
    waits for, as the manifest says; a store that has lost its rows is not looked for among the others.

    `lock_wait`: seconds to wait for another writer.
    """

    only: tuple[str, ...] = ()
    pending_only: bool = False
    lock_wait: float = 0.0


def load_waiting(config: Config, base: Path, progress: Progress, *, options: LoadOptions | None = None) -> IngestReport:
    """Bring every store (or some) what waits for it; `listed` documents of the report are those that waited.

    Raises UsageError (no collection, no such store), RefusedError (other stores are configured), LockedError,
    StoreError (no store that something waits for can be reached), DiskFullError.
    """
    options = options or LoadOptions()
    session = session_of(config, base, progress, "load")
    return perform(
        session,
        options.lock_wait,
        lambda lease: begin_existing(session, lease, options.only),
        lambda run, tally: _work(run, tally, options),
    )


def session_of(config: Config, base: Path, progress: Progress, command: str) -> Session:
    """What a command that asks no source works with."""
    storage = storage_of(config, base, fresh=True)
    return Session(config=config, storage=storage, progress=progress, stop=StopFlag(), base=base, command=command)


def begin_existing(session: Session, lease: Lease, only: Collection[str] = ()) -> tuple[CollectionState, Generation]:
    """Check that there is a generation with the configured stores, then take a run number; the model is not asked."""
    check_stores(session, existing(session), only)
    require_free(session.storage, session.config.ingest.min_free_bytes)
    state = begin_run(session.paths, lease)
    return state, existing(session)


def existing(session: Session) -> Generation:
    """The generation that runs write. UsageError if no run has begun yet."""
    generation = current(read_collection(session.paths))
    if generation is None:
        raise UsageError(
            f"collection {session.config.collection.name!r} holds nothing yet: no run has begun", "m3 ingest"
        )
    return generation


def check_stores(session: Session, generation: Generation, only: Collection[str]) -> None:
    """UsageError for a store that the generation has not; RefusedError if the configuration has other stores."""
    if set(generation.stores) != set(bindings(session.config)):
        raise RefusedError(
            f"generation {generation.number} was built with other stores than are configured",
            "take the change of the stores back, or give the collection another name",
        )
    names = [binding.name for binding in generation.stores]
    for name in only:
        if name not in names:
            raise UsageError(f"no store is called {name[:40]!r}", did_you_mean(name, names))


def waiting(config: Config, base: Path, only: Collection[str] = ()) -> dict[str, Any]:
    """How many documents wait for each store, as the manifest says; nothing is asked and nothing changed."""
    from pipelines.ingest.progress import NoProgress

    session = session_of(config, base, NoProgress(), "load")
    generation = existing(session)
    check_stores(session, generation, only)
    pending = Manifest(session.paths, generation.number).counts().pending
    names = sorted(only or (binding.name for binding in generation.stores))
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "load",
        "dry_run": True,
        "stores": {name: {"pending": pending.get(name, 0)} for name in names},
    }


def _work(run: Run[Session], tally: Tally, options: LoadOptions) -> None:
    session = run.request
    run.manifest.compact()
    known = run.manifest.counts()
    asked = set(options.only or (binding.name for binding in run.generation.stores))
    if options.pending_only:
        waited_for = {name for name, count in known.pending.items() if count}
        asked &= waited_for | read_refills(session.paths, run.generation.number)
    standing = Standing.of(run.generation, asked)
    tally.standing, tally.waiting = standing, known.pending
    with stores_for(run, standing) as stores:
        stores.open_servers()
        if known.documents:
            find_lost(run, stores)
        work = diff.find_waiting(run.manifest, run.work, standing)
        tally.listed, tally.classes = work.count("pending"), {"pending": work.count("pending")}
        session.progress.planned(
            Planned(
                None, unchanged=0, to_read=0, pending=work.count("pending"), gone=work.count("removed"), to_read_bytes=0
            )
        )
        if work.to_do and not session.stop:
            stores.open_rest()
            waves = _waves(run, stores, work, tally)
            conclude(
                run,
                stores,
                tally,
                last_wave=waves,
                removed=lambda: diff.removed_records(work, run.manifest),
                may_go_live=asked.issuperset(known.pending),
            )
            tally.gone = tally.removed
        if not session.stop:
            settle_refills(run, stores)
    run.folder.close_dead_letters(complete=False)


def _waves(run: Run[Session], stores: Stores, work: diff.Work, tally: Tally) -> int:
    """Restore, load and commit wave after wave; returns how many there were."""
    limits = WaveLimits.of(run.request.config)
    groups = record_groups(diff.pending_records(work, run.manifest, (run.number, 0)), limits)

    def bring(group: Group, wave: int, step: PlainStep) -> Iterator[Outcome]:
        if isinstance(group, RecordGroup):
            yield from _load_group(group.records, step, tally)

    return plain_waves(run, stores, cut_waves((), groups, limits), bring, tally)


def _load_group(records: Sequence[DocumentRecord], step: PlainStep, tally: Tally) -> Iterator[Outcome]:
    restored = restore(records, step.chunk_files, step.load.stores.standing)
    yield from (Prepared(record, "pending") for record in restored.records)
    yield from map(lost_letter, restored.lost)
    lost: set[tuple[str, str]] = set()
    for part in parts_of(restored.rows, restored.targets):
        known, new = split_known(part.rows, step.load.lake)
        lost |= {(row.chunk.tenant, row.chunk.doc_id) for row in new}
        yield load(replace(known, stores=part.stores), step.load)
    tally.lost_vectors += len(lost)
