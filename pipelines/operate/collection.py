"""The collection that a command looks at: its folders, its state, and the generation that is searched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from m3core.config.model import Config
from m3core.errors import StateError, UsageError
from pipelines.state.collection import CollectionState, Generation, read_collection
from pipelines.state.files import DamagedError
from pipelines.state.manifest import Manifest
from pipelines.state.paths import StatePaths
from pipelines.state.storage import storage_of
from pipelines.state.stores import store_folder

T = TypeVar("T")

_ATTEMPTS = 5


@dataclass(frozen=True)
class Place:
    """Where a configured collection lies; nothing has to be there yet."""

    config: Config
    base: Path
    storage: Path

    @classmethod
    def of(cls, config: Config, base: Path) -> Place:
        """From the configuration and the folder that its paths are relative to."""
        return cls(config, base, storage_of(config, base, fresh=True))

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self.config.collection.name

    @property
    def paths(self) -> StatePaths:
        """Its state folder."""
        return StatePaths.of(self.storage, self.name)

    def store_folder(self, store: str) -> Path:
        """Folder of an embedded store."""
        return store_folder(self.storage, store, self.name)


@dataclass(frozen=True)
class Collection:
    """A collection that was ingested at least in part; `generation` is the live one, or the first while it is built."""

    place: Place
    state: CollectionState
    generation: Generation

    @classmethod
    def open(cls, place: Place) -> Collection:
        """Read what is there. UsageError if no run has begun yet; StateError if the state is damaged."""
        found = find(place)
        if found is None:
            raise UsageError(f"collection {place.name!r} holds nothing yet: no run has begun", "m3 ingest")
        return found

    @property
    def paths(self) -> StatePaths:
        """Its state folder."""
        return self.place.paths

    @property
    def manifest(self) -> Manifest:
        """The documents of the generation, read anew."""
        return Manifest(self.paths, self.generation.number)


def find(place: Place) -> Collection | None:
    """The collection as it is now; None if no run has begun yet."""
    state = read_collection(place.paths)
    generation = None if state is None else state.current_generation
    return None if state is None or generation is None else Collection(place, state, generation)


def steady(read: Callable[[], T]) -> T:
    """What `read` says of the manifest. A run that compacts it meanwhile takes files away: then it is read again."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except DamagedError:
            raise
        except StateError:
            continue
    return read()
