"""A generation removed: its rows from every store, its manifest and chunk files. What it was stays in the list.

Stores first: while one of them cannot remove it, the generation stays what it was, so that purges and acl changes still
reach what is left (and nothing promotes it: the counts are wrong). Then `collection.json` says `dropped`, then its
folders go. What is killed between is finished by dropping it again. The lake stays: its vectors may serve others, and
`m3 gc` takes what nobody needs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from m3core.errors import ExitCode, LockedError, RefusedError, StoreError
from pipelines.operate.collection import Collection, Place
from pipelines.operate.generations import generation_of, state_of
from pipelines.operate.sizes import disk_bytes
from pipelines.operate.stores import stores_of
from pipelines.state.clock import seconds_of
from pipelines.state.collection import CURSOR_SECONDS, Generation, swap_collection
from pipelines.state.files import remove_tree
from pipelines.state.lease import Lease, acquire_lease

SCHEMA_VERSION = 1
# As long as a cursor lives, and more: clocks differ, and a search may be long under way.
KEPT_SECONDS = 4 * CURSOR_SECONDS


@dataclass(frozen=True)
class DropRequest:
    """What is asked. `now`: also a generation that stopped being live so recently that cursors may still need it."""

    place: Place
    number: int
    dry_run: bool = False
    now: bool = False


@dataclass
class Dropped:
    """What was removed, or would be: bytes on disk, and by store whether it is gone there (why not, if it is not)."""

    generation: int
    bytes: int
    stores: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """7 if a store could not remove it: drop it again later."""
        return ExitCode.UNREACHABLE if any(self.stores.values()) else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 generations drop --json` prints; a store's value is the reason why not, or null."""
        return {
            "schema_version": SCHEMA_VERSION,
            "generation": self.generation,
            "dry_run": self.dry_run,
            "bytes": self.bytes,
            "stores": {name: why or None for name, why in self.stores.items()},
            "exit_code": int(self.exit_code),
        }


def drop(request: DropRequest) -> Dropped:
    """Remove a generation that is not live.

    UsageError if there is none; RefusedError for the live one, and for one that cursors may still need; LockedError
    while a run is at work.
    """
    state_of(request.place)
    with acquire_lease(request.place.paths) as lease:
        return drop_generation(request, lease)


def drop_generation(request: DropRequest, lease: Lease) -> Dropped:
    """The same, for a caller that holds the lease."""
    place = request.place
    state = state_of(place)
    generation = generation_of(state, request.number)
    _check(generation, now=request.now)
    collection = Collection(place, state, generation)
    folders = [place.paths.chunks(generation.number), place.paths.manifest(generation.number)]
    embedded = [store.options().folder for store in stores_of(collection) if store.embedded]
    dropped = Dropped(generation.number, sum(map(disk_bytes, [*folders, *embedded])), dry_run=request.dry_run)
    dropped.stores = {store.name: "" for store in stores_of(collection)}
    if request.dry_run:
        return dropped
    for store in stores_of(collection):
        lease.check()
        try:
            with store.sink(store.options(before_request=lease.check)) as sink:
                sink.drop()
        except (StoreError, LockedError) as error:
            lease.check()  # a lost lease is no matter of the store
            dropped.stores[store.name] = f"{error.message}. Remedy: {error.remedy}"
    if any(dropped.stores.values()):
        return dropped
    lease.check()
    if generation.status != "dropped":
        swap_collection(place.paths, state, state.with_generations(replace(generation, status="dropped")))
    for folder in folders:
        remove_tree(folder)
    return dropped


def _check(generation: Generation, *, now: bool) -> None:
    if generation.status == "live":
        raise RefusedError(
            f"generation {generation.number} is live: it is what searches find", "promote another one first"
        )
    if generation.status == "retired" and not now:
        age = time.time() - seconds_of(generation.retired)
        if age < KEPT_SECONDS:
            raise RefusedError(
                f"generation {generation.number} was live {age / 60:.0f} minutes ago: searches that are leafed through "
                f"may need it for {KEPT_SECONDS / 60:.0f} minutes",
                "try again later, or give --now",
            )
