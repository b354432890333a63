"""A collection on one screen: what is in it, where, how it came there, and what wants attention. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from connectors.registry import is_embedded
from m3core.disk import SCARCE
from m3core.errors import ExitCode, M3Error
from m3core.terminal import counted
from pipelines.operate.collection import Collection, Place, find, steady
from pipelines.operate.history import PastRun, Writer, current_writer, last_runs
from pipelines.operate.sizes import Sizes, measure
from pipelines.operate.stores import Store, stores_of
from pipelines.state.collection import Generation
from pipelines.state.manifest import ManifestCounts
from pipelines.state.runs import read_dead_letters
from pipelines.state.tombstones import read_applied, read_tombstones

SCHEMA_VERSION = 1
_RUNS = 5


@dataclass(frozen=True)
class StoreStatus:
    """One store. `rows` as the store counts them, None if it does not answer: `error` says why."""

    name: str
    kind: str
    signals: tuple[str, ...]
    text: bool
    rows: int | None
    pending: int
    error: M3Error | None = None

    def as_json(self) -> dict[str, Any]:
        """`pending` counts documents."""
        error = self.error
        return {
            "kind": self.kind,
            "signals": list(self.signals),
            "text": self.text,
            "rows": self.rows,
            "pending": self.pending,
            "error": None if error is None else {"code": error.code, "message": error.message, "remedy": error.remedy},
        }


@dataclass(frozen=True)
class Fault:
    """Something that wants attention, and the command that helps."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Status:
    """What `m3 status` says. `generation` is None while no run has begun. `purge_waits`: one was interrupted, or the
    state was restored from before it."""

    collection: str
    generation: Generation | None
    counts: ManifestCounts
    stores: tuple[StoreStatus, ...]
    runs: tuple[PastRun, ...]
    dead_letters: int
    sizes: Sizes
    writer: Writer | None
    purge_waits: bool = False

    @property
    def pending(self) -> int:
        """Documents that wait for the store that waits for most."""
        return max(self.counts.pending.values(), default=0)

    @property
    def exit_code(self) -> ExitCode:
        """7 if a store did not answer; what else is wrong is told, not signalled: `m3 audit` judges."""
        return ExitCode.UNREACHABLE if any(store.error for store in self.stores) else ExitCode.OK

    def faults(self) -> Iterator[Fault]:
        """What wants attention, worst first."""
        if self.purge_waits and self.writer is None:
            yield Fault("a purge is not carried out: what it erases can still be found", "m3 purge --again")
        for store in self.stores:
            if store.error is not None:
                yield Fault(f"store {store.name} cannot be read: {store.error.message}", store.error.remedy)
            elif store.rows != (rows := self.counts.rows_of(store.name)) and not store.pending and self.writer is None:
                yield Fault(f"store {store.name} has {store.rows:,} rows for {rows:,} chunks", "m3 audit")
        if self.runs and self.runs[0].failed:
            why = f": {self.runs[0].message}" if self.runs[0].message else ""
            yield Fault(f"run {self.runs[0].run} ended with {self.runs[0].outcome}{why}", "m3 ingest")
        if self.pending and self.writer is None:
            waiting = ", ".join(store.name for store in self.stores if store.pending)
            what = f"{counted(self.pending, 'document')} {_waits(self.pending)} for {waiting}"
            yield Fault(what, "m3 load --pending")
        if self.dead_letters:
            yield Fault(f"{counted(self.dead_letters, 'document')} could not be ingested", "m3 dead-letters list")
        if self.sizes.free < SCARCE * self.sizes.total:
            yield Fault(f"{self.sizes.free / self.sizes.total:.0%} of the disk is free", "m3 gc, or a larger disk")

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 status --json` prints; sizes in bytes, times UTC."""
        generation = self.generation
        return {
            "schema_version": SCHEMA_VERSION,
            "collection": self.collection,
            "state": "empty" if generation is None else generation.status,
            "generation": None if generation is None else generation.number,
            "model": None if generation is None else generation.model,
            "fingerprints": None
            if generation is None
            else {"encoder": generation.encoder_fingerprint, "collection": generation.collection_fingerprint},
            "documents": self.counts.documents,
            "chunks": self.counts.chunks,
            "pending": self.pending,
            "dead_letters": self.dead_letters,
            "stores": {store.name: store.as_json() for store in self.stores},
            "runs": [run.as_json() for run in self.runs],
            "bytes": self.sizes.as_json(),
            "lease": None if self.writer is None else self.writer.as_json(),
            "faults": [{"what": fault.what, "remedy": fault.remedy} for fault in self.faults()],
        }


def status(place: Place) -> Status:
    """Look at the collection; a store that does not answer is a part of the answer. StateError if state is damaged."""
    collection = find(place)
    writer = current_writer(place.paths)
    counts = ManifestCounts(0, 0, {}) if collection is None else steady(collection.manifest.counts)
    stores = [] if collection is None else stores_of(collection)
    return Status(
        collection=place.name,
        generation=None if collection is None else collection.generation,
        counts=counts,
        stores=tuple(store_status(store, counts.pending.get(store.name, 0)) for store in stores),
        runs=tuple(last_runs(place.paths, _RUNS, writer)),
        dead_letters=sum(1 for _ in read_dead_letters(place.paths)),
        sizes=measure(place, _embedded(collection)),
        writer=writer,
        purge_waits=bool(read_tombstones(place.paths).unapplied(read_applied(place.paths))),
    )


def _embedded(collection: Collection | None) -> list[str]:
    stores = () if collection is None else collection.generation.stores
    return [binding.name for binding in stores if is_embedded(binding.kind)]


def store_status(store: Store, pending: int) -> StoreStatus:
    """One store, asked; that it does not answer is a part of the answer."""
    binding = store.binding
    rows, error = None, None
    try:
        rows = store.count()
    except M3Error as caught:
        error = caught
    return StoreStatus(binding.name, binding.kind, binding.signals, binding.text, rows, pending, error)


def _waits(count: int) -> str:
    return "waits" if count == 1 else "wait"
