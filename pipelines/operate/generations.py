"""The generations of a collection, one by one: what each holds, where, and whether it may go live. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connectors.registry import is_embedded
from m3core.errors import ExitCode, UsageError
from pipelines.operate.collection import Collection, Place, steady
from pipelines.operate.sizes import disk_bytes
from pipelines.operate.status import StoreStatus, store_status
from pipelines.operate.stores import stores_of
from pipelines.state.collection import CollectionState, Generation, read_collection
from pipelines.state.manifest import ManifestCounts

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ListedGeneration:
    """One generation. `behind`: it may lack deletes or acl changes. `bytes` by folder: chunks, manifest, embedded
    stores by name; the lake belongs to all. A dropped one holds nothing."""

    generation: Generation
    behind: bool
    counts: ManifestCounts
    stores: tuple[StoreStatus, ...]
    bytes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """Of all its folders."""
        return sum(self.bytes.values())

    def as_json(self) -> dict[str, Any]:
        """`pending` counts documents that wait for a store; `bytes` are those on disk."""
        one = self.generation
        return {
            "number": one.number,
            "status": one.status,
            "behind": self.behind,
            "model": one.model,
            "fingerprints": {"encoder": one.encoder_fingerprint, "collection": one.collection_fingerprint},
            "created": one.created,
            "retired": one.retired or None,
            "applied_run": one.applied_run,
            "documents": self.counts.documents,
            "chunks": self.counts.chunks,
            "pending": max(self.counts.pending.values(), default=0),
            "stores": {store.name: store.as_json() for store in self.stores},
            "bytes": dict(self.bytes),
        }


@dataclass(frozen=True)
class Generations:
    """All of them, in the order of their numbers."""

    collection: str
    live: int | None
    listed: tuple[ListedGeneration, ...]

    @property
    def exit_code(self) -> ExitCode:
        """7 if a store did not answer."""
        down = any(store.error for one in self.listed for store in one.stores)
        return ExitCode.UNREACHABLE if down else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 generations list --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "collection": self.collection,
            "live": self.live,
            "generations": [one.as_json() for one in self.listed],
        }


def list_generations(place: Place) -> Generations:
    """Look at every generation; that a store does not answer is a part of the answer. UsageError if there is none."""
    state = state_of(place)
    return Generations(place.name, state.live, tuple(_listed(place, state, one) for one in state.generations))


def state_of(place: Place) -> CollectionState:
    """What collection.json says. UsageError if no run has begun."""
    state = read_collection(place.paths)
    if state is None or not state.generations:
        raise UsageError(f"collection {place.name!r} holds nothing yet: no run has begun", "m3 ingest")
    return state


def generation_of(state: CollectionState, number: int) -> Generation:
    """The generation that a caller names. UsageError if there is none of that number."""
    known = [one.number for one in state.generations]
    if number not in known:
        raise UsageError(
            f"collection {state.collection!r} has no generation {number}, only {', '.join(map(str, known))}",
            "m3 generations list",
        )
    return state.generation(number)


def _listed(place: Place, state: CollectionState, generation: Generation) -> ListedGeneration:
    if generation.status == "dropped":
        return ListedGeneration(generation, False, ManifestCounts(0, 0, {}), (), {})
    collection = Collection(place, state, generation)
    counts = steady(collection.manifest.counts)
    sizes = {
        "chunks": disk_bytes(place.paths.chunks(generation.number)),
        "manifest": disk_bytes(place.paths.manifest(generation.number)),
    }
    stores = stores_of(collection)
    sizes |= {store.name: disk_bytes(store.options().folder) for store in stores if is_embedded(store.binding.kind)}
    asked = tuple(store_status(store, counts.pending.get(store.name, 0)) for store in stores)
    behind = generation.status != "live" and state.is_behind(generation.number)
    return ListedGeneration(generation, behind, counts, asked, sizes)
