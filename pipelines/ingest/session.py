"""What a run is made of: what was asked, and what it holds once it has its lease and its number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from connectors.snapshots.disk import require_free
from m3core.config.model import Config
from pipelines.ingest.events import RunEvents
from pipelines.ingest.generation import Build
from pipelines.ingest.progress import Progress
from pipelines.ingest.sources import Source
from pipelines.ingest.stop import StopFlag
from pipelines.state.collection import CollectionState, Generation
from pipelines.state.lease import Lease
from pipelines.state.manifest import Manifest
from pipelines.state.paths import StatePaths
from pipelines.state.runs import RunFolder

if TYPE_CHECKING:
    from pipelines.ingest.working import Runner

WORK = "work"


@dataclass(frozen=True)
class IngestOptions:
    """What a caller may ask of one run.

    `max_delete_fraction` overrides the configuration's; `lock_wait`: seconds to wait for another writer; `load`: False
    fills the lake only (`m3 embed`); `build`: a generation beside the live one (`m3 generations build`);
    `bundle_repeat` (tests): how often Beam runs each bundle again. `runner`: where the steps work; None is here.
    """

    max_delete_fraction: float | None = None
    lock_wait: float = 0.0
    load: bool = True
    build: bool = False
    bundle_repeat: int = 0
    runner: Runner | None = None


@dataclass(frozen=True, kw_only=True)
class Session:
    """What every command that writes a collection needs: configuration, places, and what the caller sees of it.

    `base` is the configuration's folder; `command` is what the run's report names.
    """

    config: Config
    storage: Path
    progress: Progress
    stop: StopFlag
    base: Path = Path()
    command: str = "ingest"

    @property
    def paths(self) -> StatePaths:
        """The collection's state folder."""
        return StatePaths.of(self.storage, self.config.collection.name)


@dataclass(frozen=True, kw_only=True)
class Request(Session):
    """What is asked of a run that reads the sources."""

    options: IngestOptions
    build: Build
    sources: Mapping[str, Source]

    @property
    def delete_limit(self) -> float:
        """Largest share of the documents that may be deleted."""
        asked = self.options.max_delete_fraction
        return self.config.ingest.max_delete_fraction if asked is None else asked


Asked = TypeVar("Asked", bound=Session)


@dataclass(frozen=True)
class Run(Generic[Asked]):
    """A run that has its lease and its number."""

    request: Asked
    state: CollectionState
    generation: Generation
    lease: Lease
    folder: RunFolder
    manifest: Manifest

    @property
    def number(self) -> int:
        """The run counter; the revision of every row that this run writes."""
        return self.state.run

    @property
    def work(self) -> Path:
        """Temporary files: keys and stamps, never text."""
        return self.folder.path / WORK

    @property
    def events(self) -> RunEvents:
        """Lines for machines about this run."""
        return RunEvents(self.request.paths.collection, self.number)

    def before_write(self) -> None:
        """LockedError if the lease is lost, DiskFullError if the disk is about to be full."""
        self.lease.check()
        require_free(self.request.storage, self.request.config.ingest.min_free_bytes)
