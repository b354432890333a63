"""`m3 plan`: what the next `m3 ingest` would do and cost. Takes no lease and writes only into a temporary folder.

The listing, the join, reading and chunking are those of a run. No text goes through the model, except for a few that
measure this machine where no run has measured it yet. With a sample, N documents that must be read stand for all: a
ratio estimate by their listed size (Cochran, Sampling Techniques, 3rd ed. 1977, section 6.4), with the half-width of
its 95 % interval.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from connectors.protocol import StoreOptions
from connectors.registry import is_embedded, open_sink
from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.disk import allocated_bytes
from m3core.config.model import Config
from m3core.errors import RefusedError, StoreError
from pipelines.ingest import diff
from pipelines.ingest.counting import Count, Counting, ratio_estimate
from pipelines.ingest.embed import UnitLimits
from pipelines.ingest.generation import Build, bindings, check_fits, current
from pipelines.ingest.listing import Listing, list_sources
from pipelines.ingest.planned import Estimate, PlanReport, StoreBytes
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.reading import Group, ItemGroup, ReadStep, chunks_of
from pipelines.ingest.report import DocumentCounts
from pipelines.ingest.session import IngestOptions, Request
from pipelines.ingest.sizing import Amount, Pace, edge_bytes, lake_bytes, pace_of
from pipelines.ingest.sources import SourceItem, open_source
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.stores import Standing, store_options
from pipelines.ingest.waves import WaveLimits, item_groups, record_groups, wanted_items
from pipelines.ingest.working import chunker_of
from pipelines.state.chunks import ChunkFiles
from pipelines.state.collection import Generation, StoreBinding, read_collection
from pipelines.state.lake import Lake
from pipelines.state.manifest import Manifest
from pipelines.state.storage import storage_of
from pipelines.state.tombstones import read_tombstones

_CLASSES = ("added", "changed", "patched", "unchanged", "pending")
# Fewer rows say little about what one costs: most of the folder is fixed.
_ROWS_THAT_TELL = 1000


def plan(config: Config, base: Path, *, sample: int | None = None) -> PlanReport:
    """What the next run would do. `sample`: so many of the documents that must be read stand for all of them.

    Raises what a run raises before it begins: RefusedError (built otherwise), SourceError, ModelError, StateError.
    """
    request = Request(
        config=config,
        options=IngestOptions(),
        storage=storage_of(config, base, fresh=True),
        build=Build.of(config, base),
        sources={name: open_source(name, section, base, config.fields) for name, section in config.sources.items()},
        progress=NoProgress(),
        stop=StopFlag(),
        base=base,
    )
    generation = current(read_collection(request.paths))
    if generation is not None:
        check_fits(generation, request.build, config)
    with tempfile.TemporaryDirectory(prefix="m3-plan-") as folder:
        return _Planning(
            request=request,
            generation=generation,
            manifest=Manifest(request.paths, 1 if generation is None else generation.number),
            lake=Lake(request.paths, request.build.encoder, read_only=True),
            folder=Path(folder),
        ).report(sample)


@dataclass(frozen=True)
class _Read:
    """What the documents that must be read amount to: chunks, tokens and so on by name, and documents by class."""

    amounts: Mapping[str, Estimate]
    classes: Mapping[str, Estimate]
    seconds: float


@dataclass(frozen=True)
class _Planning:
    """One plan being made."""

    request: Request
    generation: Generation | None
    manifest: Manifest
    lake: Lake
    folder: Path

    def report(self, sample: int | None) -> PlanReport:
        """Listing, join, reading, and the sums."""
        notes: list[str] = []
        started = time.monotonic()
        tombstones = read_tombstones(self.request.paths)
        listing = list_sources(self.request.sources, self.folder, lambda count: None, lambda: False, tombstones)
        standing = self._standing(notes)
        work = diff.join(listing, self.manifest, self.folder, standing)
        try:
            diff.check_deletes(work, self.request.delete_limit)
        except RefusedError as error:
            notes.append(f"the run would be refused: {error}")
        step, counting = self._steps(standing)
        with counting:
            for group in record_groups(diff.pending_records(work, self.manifest), self._limits):
                counting.add(chunks_of(group, step))
            restored = replace(counting.total)
            counting.changes.clear()
            listed = time.monotonic() - started
            part = sample is not None and sample < len(work.wanted)
            read = self._sampled(work, step, counting, sample or 0) if part else self._whole(work, step, counting)
        if not part:
            texts, tokens = counting.distinct()
            read = replace(read, amounts={**read.amounts, "new_texts": Estimate(texts), "new_tokens": Estimate(tokens)})
            restored = replace(restored, new_texts=0, new_tokens=0)  # they are among the distinct ones
        amounts = {name: Estimate(one.value + restored.values()[name], one.error) for name, one in read.amounts.items()}
        pace = pace_of(self.request, self.lake, counting.first_new)
        return PlanReport(
            collection=self.request.paths.collection,
            generation=None if self.generation is None else self.generation.number,
            sampled=sample if part else None,
            documents=_documents(listing, work, read),
            chunks=amounts["chunks"],
            tokens_new=amounts["new_tokens"],
            tokens_cached=amounts["cached_tokens"],
            texts_new=amounts["new_texts"],
            lake_bytes=self._lake_bytes(amounts, pace),
            stores={binding.name: self._store_bytes(binding, amounts, pace) for binding in self._bindings},
            tokens_per_second=pace.tokens_per_second,
            rate_from=pace.basis,
            reading=listed + read.seconds,
            notes=tuple(notes),
        )

    @property
    def _limits(self) -> WaveLimits:
        return WaveLimits.of(self.request.config)

    @property
    def _bindings(self) -> tuple[StoreBinding, ...]:
        return bindings(self.request.config) if self.generation is None else self.generation.stores

    def _steps(self, standing: Standing) -> tuple[ReadStep, Counting]:
        """What a run reads with, without a place to write to; and the sums."""
        spec = self.request.build.spec
        chunker, overhead = chunker_of(self.request)
        number = 1 if self.generation is None else self.generation.number
        step = ReadStep(
            collection=self.request.paths.collection,
            fingerprint=self.request.build.encoder,
            run=0,
            sources=self.request.sources,
            chunker=chunker,
            manifest=self.manifest,
            chunk_files=ChunkFiles(self.request.paths, number),
            standing=standing,
        )
        specials = overhead - (spec.max_length // spec.cls_stride if spec.cls_stride else 0)
        limits = UnitLimits(spec.dense_dim, spec.multi_dim, overhead)
        return step, Counting(self.folder / "texts.parquet", self.lake, limits, specials, spec.cls_stride)

    def _whole(self, work: diff.Work, step: ReadStep, counting: Counting) -> _Read:
        """Every document that must be read."""
        started = time.monotonic()
        before = replace(counting.total)
        for group in item_groups(wanted_items(self.request.sources, work.wanted), self._limits):
            counting.add(chunks_of(group, step))
        amounts = {name: Estimate(v - before.values()[name]) for name, v in counting.total.values().items()}
        classes = {name: Estimate(counting.changes[name]) for name in _CLASSES}
        classes["failed"] = Estimate(counting.failed)
        return _Read(amounts, classes, time.monotonic() - started)

    def _sampled(self, work: diff.Work, step: ReadStep, counting: Counting, size: int) -> _Read:
        """A sample of the documents that must be read, drawn by a hash of their places: the same one every time."""
        total_bytes = 0

        def sized() -> Iterator[SourceItem]:
            nonlocal total_bytes
            for item in wanted_items(self.request.sources, work.wanted):
                total_bytes += item.size
                yield item

        chosen = heapq.nsmallest(size, sized(), key=lambda item: diff.place_hash(item.source, item.locator))
        started = time.monotonic()
        counts: list[Count] = []
        classes: dict[str, list[float]] = {name: [] for name in (*_CLASSES, "failed")}
        for item in chosen:
            group: Group = ItemGroup((item,))
            chunked = chunks_of(group, step)
            counts.append(counting.add(chunked))
            change = "failed" if chunked.letters else next((one.change for one in chunked.documents), "failed")
            for name, values in classes.items():
                values.append(float(name == change))
        sizes = [float(item.size) for item in chosen]
        population = len(work.wanted)
        amounts = {
            name: ratio_estimate([float(count.values()[name]) for count in counts], sizes, total_bytes, population)
            for name in Count().values()
        }
        # A sampled document is a group of its own; in a run a file holds what a group of them has.
        amounts["files"] = Estimate(max(1.0, total_bytes / self._limits.group_bytes))
        ones = [1.0] * len(chosen)
        shares = {name: ratio_estimate(values, ones, population, population) for name, values in classes.items()}
        seconds = (time.monotonic() - started) * population / max(1, len(chosen))
        return _Read(amounts, shares, seconds)

    def _lake_bytes(self, amounts: Mapping[str, Estimate], pace: Pace) -> float:
        amount = Amount(amounts["new_texts"].value, amounts["new_tokens"].value, 0, amounts["files"].value)
        return lake_bytes(amount, self.request.build.spec, pace.weights_per_token) if amount.texts else 0.0

    def _store_bytes(self, binding: StoreBinding, amounts: Mapping[str, Estimate], pace: Pace) -> StoreBytes:
        """What the chunks of new documents add; those of changed documents take the place of others."""
        fresh, chunks = amounts["fresh"].value, amounts["chunks"].value
        known = self.manifest.counts().chunks
        if is_embedded(binding.kind) and known >= _ROWS_THAT_TELL and self.generation is not None:
            folder = store_options(self.generation, self.request)[binding.name].root
            with suppress(OSError):  # a run that publishes meanwhile takes files away
                return StoreBytes(allocated_bytes(folder) / known * fresh, "its rows so far")
        if binding.kind == "qdrant-edge":
            share = fresh / chunks if chunks else 0.0
            tokens = amounts["new_tokens"].value + amounts["cached_tokens"].value
            amount = Amount(fresh, tokens * share, amounts["text_bytes"].value * share)
            return StoreBytes(
                edge_bytes(amount, self.request.build.spec, binding, pace.weights_per_token), "its format"
            )
        return StoreBytes(None, "not known before a run")

    def _standing(self, notes: list[str]) -> Standing:
        """Which stores are empty although earlier runs filled them, as a run finds out, but without making anything.

        A server that does not answer is taken to be in order by then.
        """
        standing = Standing(tuple(sorted(binding.name for binding in self._bindings)))
        if self.generation is None or not self.manifest.counts().documents:
            return standing
        options = store_options(self.generation, self.request)
        lost = {binding.name for binding in self._bindings if self._is_empty(binding, options[binding.name], notes)}
        return replace(standing, lost=frozenset(lost))

    def _is_empty(self, binding: StoreBinding, options: StoreOptions, notes: list[str]) -> bool:
        if is_embedded(binding.kind):
            return SnapshotChain(options.folder).current() is None
        sink = open_sink(binding.kind, options)
        try:
            return sink.count() == 0
        except StoreError as error:
            notes.append(f"taken to be in order: {error}")
            return False
        finally:
            sink.close()


def _documents(listing: Listing, work: diff.Work, read: _Read) -> DocumentCounts:
    classes = {name: round(one.value) for name, one in read.classes.items()}
    return DocumentCounts(
        listed=listing.items + listing.failed,
        added=classes["added"],
        changed=classes["changed"],
        patched=classes["patched"],
        deleted=work.count("gone"),
        unchanged=work.count("unchanged") + classes["unchanged"],
        failed=listing.failed + work.count("duplicate") + classes["failed"],
        pending=work.count("pending") + classes["pending"],
    )
