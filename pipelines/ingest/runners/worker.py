"""A worker: what its process has once for all its threads (the model, the lake, the tokenizer), and what each step of
the graph has for itself (connections to the stores)."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from connectors.snapshots.disk import require_free
from m3core.config.model import LoadOptions
from m3core.errors import DiskFullError, M3Error, ModelError, SourceError, StateError, StoreError
from pipelines.ingest.chunking import Chunker
from pipelines.ingest.commit import CommitStep, Committed, Outcome, commit_wave
from pipelines.ingest.embed import EncodeStep, LazyEncoder, UnitLimits
from pipelines.ingest.generation import Build
from pipelines.ingest.load import LoadStep
from pipelines.ingest.reading import Group, ReadStep, RecordGroup
from pipelines.ingest.runners.attempts import with_strays
from pipelines.ingest.runners.failures import tell_failure
from pipelines.ingest.runners.fence import LeaseSeen, StopSeen
from pipelines.ingest.runners.order import LISTING, Order
from pipelines.ingest.runners.signs import Sign, Told
from pipelines.ingest.runners.splits import kept_split, list_one, read_group
from pipelines.ingest.session import Session
from pipelines.ingest.shared import Shared
from pipelines.ingest.sources import Source, open_source, tree_of
from pipelines.ingest.stop import StopFlag
from pipelines.ingest.stores import Stores, for_writing, store_options
from pipelines.ingest.waves import WaveLimits
from pipelines.ingest.working import chunker_for
from pipelines.state.chunks import ChunkFiles
from pipelines.state.collection import Generation, read_collection
from pipelines.state.lake import Lake
from pipelines.state.livecopy import copy_of_this_process
from pipelines.state.manifest import Manifest
from pipelines.state.runs import DeadLetter, RunFolder
from pipelines.state.tombstones import Tombstones, read_tombstones

_TEMPORARY_BYTES = 64 << 20
_workers: dict[tuple[str, int, str, bool], Worker] = {}
_encoders: dict[str, LazyEncoder] = {}
_copies: dict[str, Path] = {}
_lock = threading.Lock()


def open_step(order: Order, step: str) -> StepShared:
    """What one step works with. The first step of a process looks whether the process can do its work at all: what it
    lacks is told at once, in the words of the launcher's own errors."""
    order = at_home(order)
    with _lock:
        key = str(order.storage), order.run, order.token, order.wave == LISTING
        if key not in _workers:
            _workers.clear()
            _workers[key] = Worker.checked(order)
        worker = _workers[key]
    try:
        return worker.step(order, step)
    except Exception as error:
        tell_failure(order.files, step, error)
        raise


def at_home(order: Order) -> Order:
    """The order with the storage folder as this process has it: a copy of its own where the state is in a bucket."""
    url = order.config.storage.url
    if not url:
        return order
    with _lock:
        if url not in _copies:
            _copies[url] = copy_of_this_process(url)
    return replace(order, storage=_copies[url])


@dataclass(frozen=True)
class Worker:
    """What a process has once in a run."""

    order: Order
    generation: Generation
    build: Build
    manifest: Manifest
    lake: Lake
    encoder: LazyEncoder
    sources: dict[str, Source]
    session: Session
    sign: Sign
    chunker: Chunker
    overhead: int

    @classmethod
    def checked(cls, order: Order) -> Worker:
        """The worker of this process, after it has found what it needs."""
        sign = Sign(order.files)
        try:
            if not (order.config.storage.url or order.files.folder.is_dir()):
                raise _no_state(order)
            sign.give()
        except OSError as error:
            raise _no_state(order) from error
        try:
            worker = cls.of(order, sign)
            worker.check()
        except Exception as error:
            tell_failure(order.files, "setup", error, fatal=True)
            raise
        return worker

    @classmethod
    def of(cls, order: Order, sign: Sign) -> Worker:
        """From the order; no weights are loaded."""
        state = read_collection(order.paths)
        if state is None:
            raise _no_state(order)
        config = order.config
        try:
            build = Build.of(config, order.base)
        except ModelError as error:
            raise ModelError(f"the model is not on worker {socket.gethostname()}: {error.message}", _MODEL) from None
        if build.encoder != order.encoder:
            raise ModelError(
                f"worker {socket.gethostname()} has another model: {build.spec.name} is {build.encoder[:14]} there "
                f"and {order.encoder[:14]} for the launcher",
                _MODEL,
            )
        chunker, overhead = chunker_for(config.chunking, build.spec)
        return cls(
            order=order,
            generation=state.generation(order.generation),
            build=build,
            manifest=Manifest(order.paths, order.generation),
            lake=Lake(order.paths, order.encoder),
            encoder=_encoder(build, config.model.loading()),
            sources={name: open_source(name, one, order.base, config.fields) for name, one in config.sources.items()},
            session=Session(config=config, storage=order.storage, progress=sign, stop=StopFlag(), base=order.base),
            sign=sign,
            chunker=chunker,
            overhead=overhead,
        )

    def check(self) -> None:
        """Disk, sources and stores, as they are seen from here."""
        self.before_write()
        _check_temporary()
        host = socket.gethostname()
        for name, section in self.order.config.sources.items():
            try:
                there = tree_of(name, section, self.order.base).exists()
            except SourceError as error:
                raise SourceError(f"source {name} on worker {host}: {error.message}", error.remedy) from None
            if not there:
                raise SourceError(
                    f"source {name}: {section.place} is not there on worker {host}",
                    "mount it at the same place as on the launcher",
                )
        with self.stores(self.order) as stores:
            try:
                stores.open_rest()
            except StoreError as error:
                raise _unseen(error) from None
            down = stores.standing.down
            for name in down.keys() - self.order.absent.keys():
                raise _unseen(down[name])

    def stores(self, order: Order) -> Stores:
        """Stores of the generation, none of them open yet."""
        options = store_options(self.generation, self.session)
        writing = for_writing(options, order.run, order.building, self.before_write)
        return Stores(self.generation, writing, order.standing())

    @cached_property
    def lease(self) -> LeaseSeen:
        """The launcher's lease."""
        return LeaseSeen(self.order.paths, self.order.token)

    def before_write(self) -> None:
        """LockedError if the run lost its lease, DiskFullError if the disk is about to be full."""
        self.lease.check()
        require_free(self.order.storage, self.order.config.ingest.min_free_bytes)

    def step(self, order: Order, name: str) -> StepShared:
        """What one step of a wave works with: connections only for those that write."""
        stores = self.stores(order)
        if name in ("LoadReference", "CommitWave"):
            stores.open_rest()
        spec = self.build.spec
        return StepShared(
            name=name,
            read=ReadStep(
                collection=order.paths.collection,
                fingerprint=order.encoder,
                run=order.run,
                sources=self.sources,
                chunker=self.chunker,
                manifest=self.manifest,
                chunk_files=ChunkFiles(order.paths, order.generation),
                standing=stores.standing,
            ),
            limits=replace(UnitLimits(spec.dense_dim, spec.multi_dim, self.overhead), tokens=order.unit_tokens),
            encode=EncodeStep(self.encoder, self.lake, order.config.ingest.batch_tokens, self.sign.encoded),
            load=LoadStep(stores, self.lake, self.before_write, self.sign.loaded),
            commit=CommitStep(
                order.run,
                self.manifest,
                RunFolder(order.paths, order.run),
                self.lease,
                stores,
                Announce(order, stores),
            ),
            progress=self.sign,
            stop=StopSeen(order.files),
            totals=Told(self.sign),
            wave=order.wave,
            order=order,
        )


@dataclass(frozen=True)
class Announce:
    """Tells the launcher what a commit does, just before it counts: killed in between, it is told again."""

    order: Order
    stores: Stores

    def __call__(self, committed: Committed) -> None:
        self.order.files.write(
            f"committed-{self.order.wave}",
            {
                "changes": dict(committed.changes),
                "chunks": committed.chunks,
                "letters": [asdict(letter) for letter in committed.letters],
                "given_up": {name: [error.message, error.remedy] for name, error in self.stores.standing.down.items()},
            },
        )


@dataclass(kw_only=True)
class StepShared(Shared):
    """What one step has in a worker. A failure is told and raised: the engine decides whether to try again."""

    order: Order

    def fail(self, error: BaseException) -> None:
        """Leave word, then let the engine know."""
        tell_failure(self.order.files, self.name, error)
        raise error

    def take(self, number: int) -> Iterator[Group | DeadLetter]:
        """The groups of one line of the wave's work file."""
        files, limits = self.order.files, WaveLimits.of(self.order.config)
        line = files.read_line(self.order.groups, number)
        if "records" in line:
            keys = [(tenant, doc_id) for tenant, doc_id in line["records"]]
            found = self.read.known(keys)
            yield RecordGroup(tuple(found[key] for key in keys if key in found))
            return
        split = kept_split(line["split"], files)
        yield from read_group(split, line["numbers"], self.read.sources[split.source], limits)

    def list_split(self, number: int) -> None:
        """List one split, unless the run is to stop."""
        if not self.stop:
            list_one(number, self.order.files, self.read.sources, self.tombstones)

    @cached_property
    def tombstones(self) -> Tombstones:
        """What must not be listed."""
        return read_tombstones(self.order.paths)

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Commit the wave, once: an engine that tries the step again finds that it is done."""
        if self.commit.manifest.last_wave() < (self.commit.run, self.wave):
            written = self.read.chunk_files.owners(self.commit.run, self.wave - 1)
            commit_wave(self.wave, with_strays(outcomes, written), self.commit)

    def close(self) -> None:
        """Close the connections of this step."""
        self.load.stores.close()


def _encoder(build: Build, options: LoadOptions) -> LazyEncoder:
    """One model per process, kept from run to run."""
    key = f"{build.encoder} {build.spec.folder} {options}"
    if key not in _encoders:
        _encoders.clear()
        _encoders[key] = LazyEncoder(build.spec.folder, options)
    return _encoders[key]


def _no_state(order: Order) -> StateError:
    if url := order.config.storage.url:
        return StateError(
            f"worker {socket.gethostname()} finds no collection {order.config.collection.name} at {url}",
            "give the workers the launcher's address and credentials of the bucket, in their environment",
        )
    return StateError(
        f"worker {socket.gethostname()} cannot use the state folder {order.paths.root}",
        "mount the launcher's storage.path there at the same place, for reading and writing by the same user",
    )


def _check_temporary() -> None:
    folder = Path(tempfile.gettempdir())
    try:
        require_free(folder, _TEMPORARY_BYTES)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"m3")
    except (OSError, M3Error) as error:
        raise DiskFullError(
            f"worker {socket.gethostname()} has no room in {folder}: {error}",
            "give the workers a disk (at least 64 MiB for temporary files), or set TMPDIR",
        ) from None


def _unseen(error: StoreError) -> StoreError:
    return StoreError(
        f"a store that answers the launcher does not answer worker {socket.gethostname()}: {error.message}",
        "open the way from the workers to the store, and use an address that both can resolve",
    )


_MODEL = "bake the launcher's model into the workers' image, or pull it there: m3 models pull (M3_HOME names its place)"
