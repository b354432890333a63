"""A run whose steps are on an engine, from where the launcher stands: a wave is a job.

The launcher holds the lease, divides the sources into splits, lists them (or has them listed by a job of their own),
joins, opens the stores (and makes what is missing), and starts one job after another; a job's last step commits its
wave. What comes before and after is that of every run. Killed at any point, the run is repeated by the next one:
vectors are in the lake, rows and deletes are repeated with the same ids.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, cast

import apache_beam as beam

from m3core.errors import StateError, StoreError
from pipelines.ingest import diff
from pipelines.ingest.commit import Committed
from pipelines.ingest.graph import Step, build
from pipelines.ingest.listing import Listing
from pipelines.ingest.runners.engine import Engine
from pipelines.ingest.runners.order import LISTING, Order, groups_of
from pipelines.ingest.runners.splits import divide, list_one, listing_of, wanted_groups
from pipelines.ingest.runners.watch import Watch
from pipelines.ingest.runners.worker import StepShared
from pipelines.ingest.runners.workfiles import WorkFiles
from pipelines.ingest.session import Request, Run
from pipelines.ingest.shared import Shared
from pipelines.ingest.sources import SplitLimits
from pipelines.ingest.stores import Standing, Stores
from pipelines.ingest.tally import Tally
from pipelines.ingest.waves import WaveLimits, cut_parts, record_bytes, record_groups
from pipelines.state.lake import UNIT_TOKENS, Lake
from pipelines.state.mirror import pull
from pipelines.state.runs import DeadLetter
from pipelines.state.tombstones import read_tombstones

# Each worker has some units, so that none is left with a large one at the end; a lake file is not tiny either.
_UNITS_PER_WORKER = 8
_LEAST_UNIT_TOKENS = 256
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class OnEngine:
    """The steps of a run work on an engine. See `pipelines.ingest.working.Runner`."""

    engine: Engine

    def listing(self, run: Run[Request]) -> Listing:
        """What the sources have now, split by split: by a job of their own where that is much, else here."""
        request, files = run.request, files_of(run)
        section = request.config.runner
        divided = divide(request.sources, SplitLimits(section.split_bytes), files)
        watch = Watch(files, request, run.lease)
        if divided.bytes > section.listing_bytes and not request.stop:
            nobody = Standing.of(run.generation, ())
            order = Order.of(run, nobody, LISTING, UNIT_TOKENS)
            self.engine.run(partial(build_listing, order, divided.splits), order, watch)
            watch.check_deadline()
        else:
            _list_here(run, divided.splits)
        return listing_of(divided, files, request.config, stopped=bool(request.stop))

    def waves(self, run: Run[Request], work: diff.Work, stores: Stores, tally: Tally) -> int:
        """Job after job. Raises what a worker told, and EngineError, after the job's end."""
        request, files = run.request, files_of(run)
        lake = Lake(request.paths, request.build.encoder)
        watch = Watch(files, request, run.lease, started=tally.started)
        number = 0
        for number, lines in enumerate(_cut(run, work), start=1):
            run.before_write()
            groups = files.write_lines(groups_of(number), (line for line, _ in lines))
            order = Order.of(run, stores.standing, number, self._unit_tokens(run, sum(size for _, size in lines)))
            request.progress.wave(number)
            try:
                self.engine.run(partial(_build, order, groups), order, watch)
            finally:
                pull(request.paths.root)
                watch.sum_up(tally.totals)
                done = _take_over(files, number, stores, tally)
            if done is not None:
                request.progress.committed(done.documents, None)
            elif not watch.asked:  # told to end before anything was read there is nothing to commit
                raise StateError("the job ended without a commit", "see the engine's log, then run it again")
            lake.compact_index()
            if request.stop or watch.asked:
                break
        watch.check_deadline()
        return number

    def _unit_tokens(self, run: Run[Request], size: int) -> int:
        workers = run.request.config.runner.parallelism
        return max(_LEAST_UNIT_TOKENS, min(UNIT_TOKENS, size // _BYTES_PER_TOKEN // (_UNITS_PER_WORKER * workers)))


def files_of(run: Run[Request]) -> WorkFiles:
    """What this launcher and its workers tell each other."""
    return WorkFiles.of(run.request.paths, run.number)


def _list_here(run: Run[Request], splits: int) -> None:
    request = run.request
    tombstones = read_tombstones(request.paths)
    documents = 0
    for number in range(splits):
        if request.stop:
            return
        documents += list_one(number, files_of(run), request.sources, tombstones)
        request.progress.listing(documents)


def build_listing(order: Order, splits: int, pipeline: beam.Pipeline) -> None:
    """The graph that lists splits."""
    numbers = pipeline | "Splits" >> beam.Create(range(splits), reshuffle=True)
    numbers | "List" >> beam.ParDo(ListSplit(order))


class ListSplit(Step):
    """Number -> one split is listed in the work files."""

    def work(self, element: int, shared: Shared) -> Iterable[Any]:
        cast(StepShared, shared).list_split(element)
        return ()


def _build(order: Order, groups: int, pipeline: beam.Pipeline) -> None:
    accelerator = order.config.runner.accelerator
    build(pipeline, order, groups, spread=True, hints={"accelerator": accelerator} if accelerator else None)


def _cut(run: Run[Request], work: diff.Work) -> Iterator[list[tuple[dict[str, Any], int]]]:
    """Waves of lines with their bytes: first what waits in the state folder, then what must be read."""
    config = run.request.config
    limits = WaveLimits.of(config)
    records = (
        ({"records": [record.key for record in group.records]}, record_bytes(group, limits))
        for group in record_groups(diff.pending_records(work, run.manifest, (run.number, 0)), limits)
    )
    lines: Iterable[tuple[dict[str, Any], int]] = chain(records, wanted_groups(work))
    return cut_parts(lines, lambda line: line[1], config.runner.wave_bytes)


def _take_over(files: WorkFiles, wave: int, stores: Stores, tally: Tally) -> Committed | None:
    """Count what the commit of a wave did, and leave out the stores that it gave up; None if there was none."""
    body = files.read(f"committed-{wave}")
    if body is None:
        return None
    committed = Committed(
        changes=Counter(body["changes"]),
        chunks=body["chunks"],
        letters=[DeadLetter(**letter) for letter in body["letters"]],
    )
    tally.add_wave(committed)
    for name, said in body["given_up"].items():
        if name not in stores.standing.absent:
            stores.give_up(name, StoreError(*said))
    return committed
