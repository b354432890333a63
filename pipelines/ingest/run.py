"""One run of `m3 ingest` on this machine: lease, listing, join, waves, deletes, flip, manifest, report.

What is committed when, and what a crash (SIGKILL, power) leaves behind at each point:

1. *Lease, run number.* A dead holder's lease is taken over by the next run; a run number is used once.
2. *Listing and join* write to `runs/<run>/work` only, which the next run removes.
3. *A wave*, per unit: chunk file, lake file, rows in the stores. A crash here leaves chunk rows and vectors that no
   manifest names: the next run makes the same ids, finds the vectors in the lake, writes the same rows. What an
   embedded store got lies in a working copy, which the next run removes.
4. *The wave's manifest delta*, after every store acknowledged. Documents are `pending` for embedded stores, and their
   record keeps the chunk ids of the last version as obsolete. A crash from here to the flip loses the working copy: the
   next run finds the documents pending and writes their rows again, from chunk files and lake, and deletes the
   obsolete ids then.
5. *Deletes in embedded stores* (obsolete chunks of documents that this run wrote; documents that are gone), in the
   working copy: lost with it, done again by the next run, because records and manifest still name them.
6. *The flip*, store by store. A crash between two stores, or after the last: rows are visible while records say
   pending; the next run writes the same rows with its own revision and deletes the same ids again. Nothing is lost
   or doubled.
7. *Deletes in the other stores* follow the flip; a crash before or amid them is the same case as 6.
8. *The last deltas*: documents are `done`, obsolete ids forgotten, gone documents out of the manifest. For documents
   that are not yet in one of them 5 to 7 repeat; after them the next run finds everything unchanged.
9. *Compaction, collection.json (live), dead letters, report*: the collection is the same before and after each of
   them. `live` is written before 8, so that a manifest that says done never belongs to a collection nobody can search.

A run that is asked to stop (SIGTERM, SIGINT) finishes the running unit and goes through 4 to 9 with what is finished,
but deletes no gone documents. A run that fails (disk full, store down, lease lost) commits what the stores acknowledged
(4), drops the working copies, and raises.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from connectors.snapshots.disk import require_free
from m3core.config.model import Config
from m3core.errors import M3Error
from pipelines.ingest import diff
from pipelines.ingest.finalise import Ending, finalise
from pipelines.ingest.generation import Build, begin, check_fits, current, finish
from pipelines.ingest.letters import Letters
from pipelines.ingest.listing import Listing, duplicate_letters, list_sources
from pipelines.ingest.memory import MemoryPeak
from pipelines.ingest.progress import Progress
from pipelines.ingest.progress_text import Header, Planned
from pipelines.ingest.report import IngestReport
from pipelines.ingest.session import WORK, IngestOptions, Request, Run
from pipelines.ingest.shared import disk_full, sharing
from pipelines.ingest.sources import open_source
from pipelines.ingest.stop import StopFlag, stopping_on_signals
from pipelines.ingest.stores import Stores, any_lost, for_writing, open_stores, store_options
from pipelines.ingest.tally import Tally
from pipelines.ingest.working import run_waves, share
from pipelines.state.collection import read_collection
from pipelines.state.lease import Lease, acquire_lease
from pipelines.state.manifest import Manifest
from pipelines.state.runs import DeadLetter, RunFolder, list_runs, read_dead_letters

__all__ = ["IngestOptions", "ingest"]


def ingest(config: Config, base: Path, progress: Progress, *, options: IngestOptions | None = None) -> IngestReport:
    """Bring the stores in line with the sources; returns what was done.

    Raises LockedError (another writer), RefusedError (the build differs; too many deletes), SourceError, ModelError,
    StoreError, DiskFullError. What was committed before stays, and running it again goes on from there.
    """
    options = options or IngestOptions()
    started = time.monotonic()
    with ExitStack() as stack:
        stack.callback(progress.close)
        memory = stack.enter_context(MemoryPeak())
        stop = StopFlag()
        request = Request(
            config=config,
            options=options,
            storage=(base / config.storage.path).absolute(),
            build=Build.of(config, base),
            sources={name: open_source(name, section, base, config.fields) for name, section in config.sources.items()},
            progress=progress,
            stop=stop,
            base=base,
        )
        lease = stack.enter_context(acquire_lease(request.paths, wait=options.lock_wait))
        # Not before: a run that still waits for another one ends at once.
        stack.enter_context(stopping_on_signals(stop))
        run = _begin(request, lease)
        stack.callback(partial(shutil.rmtree, run.work, ignore_errors=True))
        return _reported(run, Tally(started, memory))


def _begin(request: Request, lease: Lease) -> Run:
    """Check that the configuration fits what is there, then take a run number and a run folder."""
    config, paths = request.config, request.paths
    generation = current(read_collection(paths))
    if generation is not None:
        check_fits(generation, request.build, config)
    require_free(request.storage, config.ingest.min_free_bytes)
    state, generation = begin(paths, lease, request.build, config)
    for number in list_runs(paths):
        shutil.rmtree(paths.run(number) / WORK, ignore_errors=True)  # left by killed runs
    folder = RunFolder.create(paths, state.run, config.model_dump(mode="json"))
    run = Run(request, state, generation, lease, folder, Manifest(paths, generation.number))
    run.work.mkdir(mode=0o700)
    request.progress.started(Header(config.collection.name, generation.number, generation.model, state.run))
    return run


def _reported(run: Run, tally: Tally) -> IngestReport:
    """Work and leave a report in the run folder, also of a failure."""

    def report() -> IngestReport:
        return tally.report(run.request.paths.collection, run.generation.number, run.number, run.request.stop)

    try:
        _work(run, tally)
    except BaseException as error:
        error = disk_full(error) or error
        code = error.code if isinstance(error, M3Error) else "internal"
        message = error.message if isinstance(error, M3Error) else type(error).__name__
        with suppress(OSError, M3Error):  # the disk may be full; the first failure is what matters
            run.folder.write_report({**report().as_json(), "error": {"code": code, "message": message}})
        raise error from None
    finished = report()
    run.folder.write_report(finished.as_json())
    return finished


def _work(run: Run, tally: Tally) -> None:
    request = run.request
    tally.letters = Letters(read_dead_letters(request.paths))
    listing = list_sources(request.sources, run.work, request.progress.listing, lambda: bool(request.stop))
    building = run.generation.status == "building"
    options = for_writing(store_options(run.generation, request), run.number, building, run.before_write)
    run.manifest.compact()  # waves that a killed run left: the join streams the base, but would have to sort them
    lost = run.manifest.counts().documents > 0 and any_lost(run.generation, options)
    work = diff.join(listing, run.manifest, run.work, lost=lost)
    diff.check_deletes(work, request.delete_limit)
    _note_plan(run, listing, work, tally)
    if work.to_do and not request.stop:
        with ExitStack() as stack:
            stores = open_stores(run.generation, options)
            stack.callback(stores.close)
            stack.push(lambda kind, *_: stores.discard() if kind else None)
            _change(run, work, stores, lost, tally)
    run.folder.close_dead_letters(complete=not request.stop)


def _change(run: Run, work: diff.Work, stores: Stores, lost: bool, tally: Tally) -> None:
    """Waves, then deletes, flip and the last deltas."""
    shared = share(run, stores, lost, tally)
    with sharing(shared):
        waves = run_waves(run, work, shared, tally)
    whole = not run.request.stop

    def go_live() -> None:
        if tally.written or run.state.live is not None:
            finish(run.request.paths, run.state, run.generation, whole=whole)

    ended = finalise(
        Ending(
            run=run.number,
            last_wave=waves,
            folder=run.work,
            manifest=run.manifest,
            stores=stores,
            lease=run.lease,
            work=work,
            delete_gone=whole,
            publishing=run.request.progress.publishing,
            before_live=go_live,
        )
    )
    shared.encode.lake.compact_index()
    tally.chunks_deleted, tally.gone = ended.chunks_deleted, ended.gone


def _note_plan(run: Run, listing: Listing, work: diff.Work, tally: Tally) -> None:
    tally.listed, tally.listing_failed = listing.items, listing.failed
    tally.skipped, tally.classes = listing.skipped, work.counts
    letters: list[DeadLetter] = [*listing.letters, *duplicate_letters(diff.duplicates(work))]
    if letters:
        tally.letters.add(letters)
        run.folder.add_dead_letters(letters)
    run.request.progress.planned(
        Planned(
            listed=listing.items + listing.failed,
            unchanged=work.count("unchanged"),
            to_read=work.count("read"),
            pending=work.count("pending") + work.count("owed"),
            gone=work.count("gone"),
            to_read_bytes=work.listed_bytes,
        )
    )
