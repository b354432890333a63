"""One run of `m3 ingest` on this machine: lease, listing, join, waves, deletes, flip, manifest, report.

What is committed when, and what a crash (SIGKILL, power) leaves behind at each point:

1. *Lease, run number.* A dead holder's lease is taken over by the next run; a run number is used once.
2. *Listing and join* write to `runs/<run>/work` only, which the next run removes.
3. *A wave*, per unit: chunk file, lake file, rows in the stores. A crash here leaves chunk rows and vectors that no
   manifest names. The next run begins with taking them in (`adopting.py`): what servers may hold of them is deleted or
   written over, unless it makes the same rows again, which costs no encoding. What an embedded store got lies in a
   working copy, which the next run removes.
4. *The wave's manifest delta*, after every store at work acknowledged. A document is `done` for a server that has its
   rows, and `pending` for embedded stores, for a store that was given up, and, while it has obsolete chunks (those of
   the last version), for every store. A crash from here to the flip loses the working copy: the next run finds the
   documents pending, writes their rows into the stores that wait (from chunk files and lake, with the same revision),
   and deletes the obsolete ids then.
5. *Deletes in embedded stores* (obsolete chunks of documents that this run wrote; documents that are gone), in the
   working copy: lost with it, done again by the next run, because records and manifest still name them.
6. *The flip*, store by store. A crash between two stores, or after the last: rows are visible while records say
   pending; the next run writes the same rows again and deletes the same ids. Nothing is lost or doubled.
7. *Deletes in the other stores* follow the flip; a crash before or amid them is the same case as 6.
8. *The last deltas*: documents are `done`, obsolete ids forgotten, gone documents out of the manifest. For documents
   that are not yet in one of them 5 to 7 repeat; after them the next run finds everything unchanged.
9. *Compaction, collection.json (live), dead letters, report*: the collection is the same before and after each of
   them. `live` is written before 8, so that a manifest that says done never belongs to a collection nobody can search.
10. *The other generations follow* (`following.py`). A crash before or amid it leaves them behind, which their
    `applied_run` says, and the next run ends it.

A server that fails anywhere in 3 to 8 is given up for this run. Its rows stay `pending`, and so do its deletes: a
changed document keeps its obsolete ids, a gone one its row (marked removed) until that store was told. The run ends
with 4. The next run, or `m3 load --pending`, starts there.

A run that is asked to stop (SIGTERM, SIGINT) finishes the running unit and goes through 4 to 9 with what is finished,
but deletes no gone documents. A run that fails (disk full, no store left, lease lost) commits what the stores
acknowledged (4), drops the working copies, and raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from connectors.snapshots.disk import require_free
from m3core.config.model import Config
from pipelines.ingest import diff
from pipelines.ingest.following import Left
from pipelines.ingest.generation import Build, begin, begin_build, check_builds, check_fits, current, finish
from pipelines.ingest.listing import Listing, duplicate_letters
from pipelines.ingest.progress import Progress
from pipelines.ingest.progress_text import Planned
from pipelines.ingest.refilling import find_lost, settle_refills
from pipelines.ingest.report import IngestReport
from pipelines.ingest.running import conclude, perform, stores_for
from pipelines.ingest.session import IngestOptions, Request, Run
from pipelines.ingest.sources import open_source
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.stores import Standing, Stores
from pipelines.ingest.tally import Tally
from pipelines.ingest.working import Here, Runner
from pipelines.state.collection import CollectionState, Generation, read_collection
from pipelines.state.lease import Lease
from pipelines.state.manifest import DocumentRecord
from pipelines.state.runs import DeadLetter
from pipelines.state.storage import storage_of

__all__ = ["IngestOptions", "ingest"]


def ingest(config: Config, base: Path, progress: Progress, *, options: IngestOptions | None = None) -> IngestReport:
    """Bring the stores in line with the sources; returns what was done.

    Raises LockedError (another writer), RefusedError (the build differs; too many deletes), SourceError, ModelError,
    StoreError, DiskFullError. What was committed before stays, and running it again goes on from there.
    """
    options = options or IngestOptions()
    request = request_of(config, base, progress, options)
    return perform(request, options.lock_wait, lambda lease: begin_writing(request, lease), _work)


def request_of(config: Config, base: Path, progress: Progress, options: IngestOptions, command: str = "") -> Request:
    """What is asked of a run that reads the sources. Raises ModelError, ConfigError."""
    return Request(
        config=config,
        options=options,
        storage=storage_of(config, base, live=options.runner is not None),
        build=Build.of(config, base),
        sources={name: open_source(name, section, base, config.fields) for name, section in config.sources.items()},
        progress=progress,
        stop=StopFlag(),
        base=base,
        command=command or ("generations build" if options.build else "ingest" if options.load else "embed"),
    )


def begin_writing(request: Request, lease: Lease) -> tuple[CollectionState, Generation]:
    """Check that the configuration fits what is there, then take a run number."""
    state = read_collection(request.paths)
    generation = current(state)
    if request.options.build:
        check_builds(state, request.build, request.config)
    elif generation is not None:
        check_fits(generation, request.build, request.config)
    require_free(request.storage, request.config.ingest.min_free_bytes)
    if request.options.build:
        return begin_build(request.paths, lease, request.build, request.config)
    return begin(request.paths, lease, request.build, request.config)


def _work(run: Run[Request], tally: Tally) -> None:
    request = run.request
    runner = request.options.runner or Here()
    listing = runner.listing(run)
    run.manifest.compact()  # waves that a killed run left: the join streams the base, but would have to sort them
    known = run.manifest.counts()
    standing = Standing.of(run.generation, None if request.options.load else ())
    tally.standing, tally.waiting = standing, known.pending
    with stores_for(run, standing) as stores:
        if known.documents or known.pending:
            stores.open_servers()
            find_lost(run, stores)
        work = diff.join(listing, run.manifest, run.work, standing)
        diff.check_deletes(work, request.delete_limit)
        _note_plan(run, listing, work, tally)
        if not request.stop:
            tally.left = Left(listing, request.delete_limit)
            if work.to_do:
                stores.open_rest()
                _change(run, work, stores, tally, runner)
            elif run.state.live is not None and not standing.absent:
                finish(request.paths, run.state, run.generation, whole=True)
            if not request.stop:
                settle_refills(run, stores)
    if request.stop:
        tally.left = Left()
    run.folder.close_dead_letters(
        complete=not request.stop, standing=lambda: diff.refused_documents(run.manifest, run.work)
    )


def _change(run: Run[Request], work: diff.Work, stores: Stores, tally: Tally, runner: Runner) -> None:
    """Waves, then deletes, flip and the last deltas."""
    waves = runner.waves(run, work, stores, tally)
    whole = not run.request.stop

    def gone() -> Iterable[Sequence[DocumentRecord]]:
        return diff.gone_records(work, run.manifest) if whole else ()

    def removed() -> Iterable[Sequence[DocumentRecord]]:
        return diff.removed_records(work, run.manifest)

    loaded = run.request.options.load
    conclude(run, stores, tally, last_wave=waves, gone=gone, removed=removed, whole=whole, may_go_live=loaded)


def _note_plan(run: Run[Request], listing: Listing, work: diff.Work, tally: Tally) -> None:
    tally.listed, tally.listing_failed = listing.items, listing.failed
    tally.skipped, tally.classes = listing.skipped, work.counts
    letters: list[DeadLetter] = [*listing.letters, *duplicate_letters(diff.duplicates(work))]
    if letters:
        tally.letters.add(letters)
        run.folder.add_dead_letters(letters)
        for letter in letters:
            run.events.dead_letter(letter)
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
