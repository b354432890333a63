"""Where the steps of a run work: in this process, wave by wave, or where a `Runner` says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from m3core.checkpoint import ModelSpec
from m3core.config.model import ChunkingSection
from m3core.tokenize import TextTokenizer
from pipelines.ingest import diff
from pipelines.ingest.chunking import Chunker, ChunkingConfig
from pipelines.ingest.commit import CommitStep
from pipelines.ingest.embed import EncodeStep, LazyEncoder, UnitLimits
from pipelines.ingest.listing import Listing
from pipelines.ingest.load import LoadStep
from pipelines.ingest.reading import ReadStep
from pipelines.ingest.running import listing_for
from pipelines.ingest.session import Request, Run
from pipelines.ingest.shared import Shared, sharing
from pipelines.ingest.stores import Stores
from pipelines.ingest.tally import Tally
from pipelines.ingest.waves import WaveLimits, cut_waves, item_groups, record_groups, source_bytes, wanted_items
from pipelines.state.chunks import ChunkFiles
from pipelines.state.lake import Lake


class Runner(Protocol):
    """Where the steps of a run work."""

    def listing(self, run: Run[Request]) -> Listing:
        """What the sources have now. Raises SourceError."""

    def waves(self, run: Run[Request], work: diff.Work, stores: Stores, tally: Tally) -> int:
        """Do the work wave after wave until all is done or the run is to stop; how many waves there were.

        Each is committed, and counted in `tally`. Raises what a step raised.
        """


class Here:
    """This process."""

    def listing(self, run: Run[Request]) -> Listing:
        """See `Runner`."""
        return listing_for(run)

    def waves(self, run: Run[Request], work: diff.Work, stores: Stores, tally: Tally) -> int:
        """See `Runner`."""
        shared = share(run, stores, tally)
        with sharing(shared):
            return run_waves(run, work, shared, tally)


def share(run: Run[Request], stores: Stores, tally: Tally) -> Shared:
    """What the steps of this run share; nothing heavy is loaded yet."""
    request = run.request
    spec = request.build.spec
    chunker, overhead = chunker_of(request)
    lake = Lake(request.paths, request.build.encoder)
    encoder = LazyEncoder(spec.folder, request.config.model.loading())
    return Shared(
        name=f"{request.paths.root}#{run.number}",
        read=ReadStep(
            collection=request.paths.collection,
            fingerprint=request.build.encoder,
            run=run.number,
            sources=request.sources,
            chunker=chunker,
            manifest=run.manifest,
            chunk_files=ChunkFiles(request.paths, run.generation.number),
            standing=stores.standing,
        ),
        limits=UnitLimits(spec.dense_dim, spec.multi_dim, overhead),
        encode=EncodeStep(encoder, lake, request.config.ingest.batch_tokens, _saying(request)),
        load=LoadStep(stores, lake, run.before_write, request.progress.loaded),
        commit=CommitStep(run.number, run.manifest, run.folder, run.lease, stores),
        progress=request.progress,
        stop=request.stop,
        totals=tally.totals,
    )


def chunker_of(request: Request) -> tuple[Chunker, int]:
    """The configured chunker, and the most tokens that specials and prefix add to a text."""
    return chunker_for(request.config.chunking, request.build.spec)


def chunker_for(section: ChunkingSection, spec: ModelSpec) -> tuple[Chunker, int]:
    """The same from its parts: the chunking within the model's limit."""
    tokenizer = TextTokenizer.load(spec.folder)
    overhead = tokenizer.special_overhead(spec.passage_prefix)
    if spec.cls_stride is not None:
        overhead += spec.max_length // spec.cls_stride
    most = min(section.max_tokens, spec.max_length - overhead)
    return Chunker(tokenizer, ChunkingConfig(max_tokens=most, overlap_tokens=section.overlap_tokens)), overhead


def _saying(request: Request) -> Callable[[int, int], None]:
    """Progress of the encoder; between two forward passes is also the moment to say that a signal was heard."""

    def say(tokens: int, text_bytes: int) -> None:
        request.progress.encoded(tokens, text_bytes)
        request.stop.announce(request.progress.stopping)

    return say


def run_waves(run: Run[Request], work: diff.Work, shared: Shared, tally: Tally) -> int:
    """Run wave after wave until all is done or the run is to stop; returns how many there were.

    Raises what a step raised, after the wave's commit, and DiskFullError before a wave that has no room.
    """
    run_wave = _beam()
    request = run.request
    limits = WaveLimits.of(request.config)
    items = item_groups(wanted_items(request.sources, work.wanted), limits)
    records = record_groups(diff.pending_records(work, run.manifest, (run.number, 0)), limits)
    number = 0
    for number, groups in enumerate(cut_waves(items, records, limits), start=1):
        run.before_write()
        shared.wave, shared.groups, shared.committed = number, groups, None
        request.progress.wave(number)
        try:
            run_wave(shared, request.options.bundle_repeat)
        finally:
            if shared.committed is not None:
                tally.add_wave(shared.committed)
                request.progress.committed(shared.committed.documents, source_bytes(groups))
        # Every unit looks into every segment: at a million documents half of the time, had they waited for the end.
        shared.encode.lake.compact_index()
        request.stop.announce(request.progress.stopping)
        if request.stop:
            break
    return number


def _beam() -> Callable[[Shared, int], None]:
    """The graph, imported when there is something to do: Beam takes seconds, and warns of what nobody uses here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from pipelines.ingest.graph import run_wave
    finally:
        logging.disable(disabled)
    return run_wave
