"""The collection that something is erased from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m3core.config.model import Config
from pipelines.state.paths import StatePaths


@dataclass(frozen=True)
class Target:
    """A configured collection. `base` is the configuration's folder, `storage` the absolute storage path."""

    config: Config
    base: Path
    storage: Path

    @property
    def paths(self) -> StatePaths:
        """Its state folder."""
        return StatePaths.of(self.storage, self.config.collection.name)
