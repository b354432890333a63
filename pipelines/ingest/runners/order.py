"""What a worker is given to do: values only, no secret, no open thing; it travels inside the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from m3core.config.model import Config
from m3core.errors import StoreError
from pipelines.ingest.runners.workfiles import WorkFiles
from pipelines.ingest.session import Request, Run
from pipelines.ingest.shared import Shared
from pipelines.ingest.stores import Standing
from pipelines.state.paths import StatePaths

# The wave before the first: its job lists the sources, and asks no store.
LISTING = 0


@dataclass(frozen=True)
class Order:
    """One wave of a run as its workers see it. Folders are where the launcher has them: workers mount them at the same
    places, except that of a state in a bucket, of which each worker makes a copy of its own.

    `token` is that of the launcher's lease; `unit_tokens`: what one encode step finishes at once, so that each worker
    has several. `lost` and `absent` stores: see `Standing`.
    """

    config: Config
    base: Path
    storage: Path
    run: int
    wave: int
    generation: int
    building: bool
    token: str
    encoder: str
    unit_tokens: int
    lost: frozenset[str]
    absent: Mapping[str, StoreError | None]

    @classmethod
    def of(cls, run: Run[Request], standing: Standing, wave: int, unit_tokens: int) -> Order:
        """The order for the workers of a wave."""
        request = run.request
        return cls(
            config=request.config,
            base=request.base.absolute(),
            storage=request.storage,
            run=run.number,
            wave=wave,
            generation=run.generation.number,
            building=run.generation.status == "building",
            token=run.lease.record.token,
            encoder=request.build.encoder,
            unit_tokens=unit_tokens,
            lost=standing.lost,
            absent=dict(standing.absent),
        )

    @property
    def name(self) -> str:
        """One name per attempt, to find its job by."""
        return f"m3-{self.config.collection.name.replace('_', '-')}-run{self.run}-{self.wave}-{self.token[:8]}"

    @property
    def paths(self) -> StatePaths:
        """The collection's state folder."""
        return StatePaths.of(self.storage, self.config.collection.name)

    @property
    def files(self) -> WorkFiles:
        """What launcher and workers tell each other."""
        return WorkFiles.of(self.paths, self.run)

    @property
    def groups(self) -> str:
        """Name of the work file with the groups of the wave."""
        return groups_of(self.wave)

    def open(self, step: str) -> Shared:
        """What a step of that name works with in this process. See `pipelines.ingest.shared.Sharing`."""
        from pipelines.ingest.runners.worker import open_step

        return open_step(self, step)

    def standing(self) -> Standing:
        """The stores as they stood when the wave began; each step notes for itself what it gives up."""
        return Standing(tuple(sorted(self.config.stores)), self.lost, dict(self.absent))


def groups_of(wave: int) -> str:
    """Name of the work file with the groups of a wave."""
    return f"wave-{wave}"
