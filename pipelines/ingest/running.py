"""What every command that writes a collection has in common: lease, run folder, end, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

from m3core.disk import scarce
from m3core.errors import M3Error
from pipelines.ingest.adopting import adopt
from pipelines.ingest.exposition import exposition, write_exposition
from pipelines.ingest.finalise import Batches, Ending, finalise
from pipelines.ingest.following import follow
from pipelines.ingest.generation import finish
from pipelines.ingest.letters import Letters
from pipelines.ingest.listing import Listing, list_sources
from pipelines.ingest.memory import MemoryPeak
from pipelines.ingest.progress_text import Header
from pipelines.ingest.report import IngestReport
from pipelines.ingest.session import WORK, Request, Run, Session
from pipelines.ingest.shared import disk_full
from pipelines.ingest.stop import stopping_on_signals
from pipelines.ingest.stores import Standing, Stores, for_writing, store_options
from pipelines.ingest.tally import Tally
from pipelines.state.chunks import ChunkFiles
from pipelines.state.collection import CollectionState, Generation
from pipelines.state.erase.apply import apply_waiting
from pipelines.state.erase.target import Target
from pipelines.state.files import remove_tree
from pipelines.state.lease import Lease, acquire_lease
from pipelines.state.manifest import Manifest
from pipelines.state.runs import RunFolder, list_runs, read_dead_letters
from pipelines.state.tombstones import read_tombstones

_log = logging.getLogger(__name__)

Asked = TypeVar("Asked", bound=Session)
Begin = Callable[[Lease], tuple[CollectionState, Generation]]


def perform(session: Asked, lock_wait: float, begin: Begin, work: Callable[[Run[Asked], Tally], None]) -> IngestReport:
    """Do the work of one run under the lease and leave a report in its folder, also of a failure.

    `begin` checks that the run may be, and takes its number. Raises LockedError, and what both raise.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        stack.callback(session.progress.close)
        memory = stack.enter_context(MemoryPeak())
        lease = stack.enter_context(acquire_lease(session.paths, wait=lock_wait))
        # Not before: a run that still waits for another one ends at once.
        stack.enter_context(stopping_on_signals(session.stop))
        _erase_first(session, lease)
        _warn_of_disk(session)
        state, generation = begin(lease)
        run = _open_run(session, lease, state, generation)
        stack.callback(partial(remove_tree, run.work))
        return _reported(run, Tally(started, memory, letters=Letters(read_dead_letters(session.paths))), work)


def listing_for(run: Run[Request]) -> Listing:
    """What the sources have now, without what is under a tombstone. Raises SourceError."""
    request = run.request
    tombstones = read_tombstones(request.paths)
    return list_sources(request.sources, run.work, request.progress.listing, lambda: bool(request.stop), tombstones)


def stores_for(run: Run[Asked], standing: Standing) -> Stores:
    """The stores that the run writes, none of them open yet."""
    building = run.generation.status == "building"
    options = for_writing(store_options(run.generation, run.request), run.number, building, run.before_write)
    return Stores(run.generation, options, standing)


def conclude(
    run: Run[Asked],
    stores: Stores,
    tally: Tally,
    *,
    last_wave: int,
    gone: Batches = lambda: (),
    removed: Batches = lambda: (),
    whole: bool = False,
    may_go_live: bool = True,
) -> None:
    """Deletes, flip, live pointer and the last deltas. `whole`: the run saw everything that the sources have.

    `may_go_live`: a first generation is searched from now on; not while a store waits that was not asked for.
    """

    def go_live() -> None:
        if run.state.live is not None or (tally.written and may_go_live):
            finish(run.request.paths, run.state, run.generation, whole=whole and not stores.standing.absent)

    ended = finalise(
        Ending(
            run=run.number,
            last_wave=last_wave,
            folder=run.work,
            manifest=run.manifest,
            stores=stores,
            lease=run.lease,
            gone=gone,
            removed=removed,
            publishing=run.request.progress.publishing,
            before_live=go_live,
        )
    )
    tally.chunks_deleted, tally.gone, tally.removed = ended.chunks_deleted, ended.gone, ended.removed
    ChunkFiles(run.request.paths, run.generation.number).settle(run.number)


def _warn_of_disk(session: Session) -> None:
    if little := scarce(session.storage):
        least = session.config.ingest.min_free_bytes >> 20
        _log.warning("%s; the run stops at %s MiB. Remedy: m3 gc, or a larger disk", little, f"{least:,}")


def _erase_first(session: Session, lease: Lease) -> None:
    """Carry out a purge that was interrupted, or that a restored state does not know. StoreError if a store is down:
    nothing is written while something has to be erased."""
    done = apply_waiting(Target(session.config, session.base, session.storage), lease)
    if done is not None:
        documents = sum(found.documents for found in done.found)
        _log.warning("a purge that waited was carried out before this run: %s documents", f"{documents:,}")


def _open_run(session: Asked, lease: Lease, state: CollectionState, generation: Generation) -> Run[Asked]:
    paths = session.paths
    for number in list_runs(paths):
        if (left := paths.run(number) / WORK).exists():
            remove_tree(left)  # by a run that was killed
    folder = RunFolder.create(paths, state.run, session.config.model_dump(mode="json"))
    run = Run(session, state, generation, lease, folder, Manifest(paths, generation.number))
    run.work.mkdir(mode=0o700)
    run.manifest.begin()
    run.events.say("run began", command=session.command, generation=generation.number)
    session.progress.started(Header(session.config.collection.name, generation.number, generation.model, state.run))
    return run


def _reported(run: Run[Asked], tally: Tally, work: Callable[[Run[Asked], Tally], None]) -> IngestReport:
    def report() -> IngestReport:
        session = run.request
        return tally.report(session.command, session.paths.collection, run.generation.number, run.number, session.stop)

    try:
        if adopted := adopt(run):
            _log.warning("%s documents that a run which died had half written are put right", f"{adopted:,}")
        work(run, tally)
        if None not in tally.standing.absent.values():  # a run that leaves stores out leaves other generations out
            tally.behind = follow(run, tally.left)
        if tally.may_wait:
            tally.waiting = run.manifest.counts().pending
    except BaseException as error:
        error = disk_full(error) or error
        code = error.code if isinstance(error, M3Error) else "internal"
        message = error.message if isinstance(error, M3Error) else type(error).__name__
        with suppress(OSError, M3Error):  # the disk may be full; the first failure is what matters
            run.folder.write_report({**report().as_json(), "error": {"code": code, "message": message}})
            _tell(run, report(), int(error.exit_code) if isinstance(error, M3Error) else 1, code)
        raise error from None
    tally.disk = scarce(run.request.storage)
    finished = report()
    run.folder.write_report(finished.as_json())
    _tell(run, finished, int(finished.exit_code))
    return finished


def _tell(run: Run[Asked], report: IngestReport, exit_code: int, error: str = "") -> None:
    """How it ended, for machines: a line in the log, and a file for Prometheus."""
    for name, store in report.stores.items():
        if store.error is not None:
            run.events.say("store given up", logging.WARNING, store=name, code=store.error.code)
    counts = {name: count for name, count in report.documents.as_json().items() if count}
    facts: dict[str, Any] = {**counts, **({"code": error} if error else {})}
    run.events.say("run ended", exit_code=exit_code, seconds=round(report.seconds, 3), **facts)
    session = run.request
    run.folder.write_metrics(exposition(report, now=time.time(), exit_code=exit_code))
    if session.config.ingest.metrics_file:
        path = session.base / session.config.ingest.metrics_file
        write_exposition(path, report, now=time.time(), exit_code=exit_code)
