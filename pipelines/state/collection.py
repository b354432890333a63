"""`collection.json`: the generations of a collection, which one is live, and the run counter.

A checksummed JSON cell (`files.py`, `cell.py`), kind `threefold.collection`, format 1:

    collection     the name, equal to the folder's
    live           number of the generation that is searched, or null
    run            how many runs began; only grows. Run n has revision n
    generations    list, ascending by number, nothing is ever taken out (physical names are never used twice):
        number, collection_fingerprint, encoder_fingerprint, model, dense_dim, multi_dim
        fields         declared metadata fields, name -> type
        stores         list of {name, kind, signals, text}
        status         building | live | retired | dropped
        created        stamp (`clock.py`)
        retired        stamp of the moment it stopped being live, or ""
        applied_run    last run whose deletes and acl changes it has seen whole

Exactly the live generation has status live. A format, a key or a status that this version does not know is refused,
because writing the file again would drop what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from m3core.errors import StateError
from pipelines.state.cell import CellConflictError, cell_at
from pipelines.state.files import damaged, decode_json, encode_json, remove_leftovers
from pipelines.state.lease import Lease
from pipelines.state.paths import StatePaths
from pipelines.state.tombstones import require_applied

KIND = "threefold.collection"
FORMAT = 1
# How long a search can be leafed through in its generation. Who drops a retired one has to wait longer.
CURSOR_SECONDS = 900.0
GenerationStatus = Literal["building", "live", "retired", "dropped"]


@dataclass(frozen=True)
class StoreBinding:
    """One store of a generation and what it keeps."""

    name: str
    kind: str
    signals: tuple[str, ...]
    text: bool


@dataclass(frozen=True)
class Generation:
    """One build of the collection."""

    number: int
    collection_fingerprint: str
    encoder_fingerprint: str
    model: str
    dense_dim: int
    multi_dim: int
    fields: Mapping[str, str]
    stores: tuple[StoreBinding, ...]
    status: GenerationStatus
    created: str
    retired: str = ""
    applied_run: int = 0


@dataclass(frozen=True)
class CollectionState:
    """What `collection.json` says."""

    format: int
    collection: str
    live: int | None
    run: int
    generations: tuple[Generation, ...]

    def generation(self, number: int) -> Generation:
        """The generation with that number; StateError if there is none."""
        for generation in self.generations:
            if generation.number == number:
                return generation
        raise StateError(f"collection {self.collection} has no generation {number}")

    @property
    def live_generation(self) -> Generation | None:
        """The generation that is searched."""
        return None if self.live is None else self.generation(self.live)

    @property
    def current_generation(self) -> Generation | None:
        """The live generation; before there is one, the newest that is being built."""
        if self.live is not None:
            return self.live_generation
        return next((each for each in reversed(self.generations) if each.status == "building"), None)

    def beside(self, number: int) -> tuple[Generation, ...]:
        """The other generations that still have rows."""
        return tuple(each for each in self.generations if each.number != number and each.status != "dropped")

    def is_behind(self, number: int) -> bool:
        """Whether a run began whose deletes and acl changes this generation may not have seen whole."""
        return self.generation(number).applied_run < self.run

    def with_generations(self, *changed: Generation) -> CollectionState:
        """The same with some generations replaced, or added behind the others."""
        by_number = {each.number: each for each in (*self.generations, *changed)}
        return replace(self, generations=tuple(by_number[number] for number in sorted(by_number)))


def read_collection(paths: StatePaths) -> CollectionState | None:
    """None if there is no collection yet; StateError if the file is damaged or of a newer format."""
    current = cell_at(paths.collection_file).read()
    return None if current is None else _decode(current[0], paths)


def swap_collection(paths: StatePaths, expected: CollectionState | None, new: CollectionState) -> None:
    """Replace `expected` (None: no file yet) by `new`.

    StateError if the file says something else by now, or if `new` breaks a rule of the format.
    """
    _check(new, paths)
    _check_succession(expected, new)
    cell = cell_at(paths.collection_file)
    current = cell.read()
    found = None if current is None else _decode(current[0], paths)
    if found != expected:
        raise _changed(paths)
    try:
        cell.replace(_encode(new), current[1] if current else None)
    except CellConflictError:
        raise _changed(paths) from None


def begin_run(
    paths: StatePaths, lease: Lease, *, erasing: bool = False, mending: bool = False, later_than: int = 0
) -> CollectionState:
    """Count the run up, under the lease; the answer's `run` is this run's number. Creates the file on the first run.

    What killed runs left half-written is removed. RefusedError while a purge waits to be carried out, unless the run is
    the one that does (`erasing`). A run that does so, or that only mends what is there (`mending`), changes no document
    in one generation that others must follow: whoever was not behind before it is not behind after. `later_than`: a run
    that left rows in a store, although a state that was restored from a copy knows nothing of it.
    """
    lease.check()
    if not erasing:
        require_applied(paths)
    remove_leftovers(paths.root)
    before = read_collection(paths)
    base = before or CollectionState(FORMAT, paths.collection, None, 0, ())
    after = replace(base, run=max(base.run, later_than) + 1)
    if erasing or mending:
        current = [each for each in base.generations if each.applied_run == base.run]
        after = after.with_generations(*(replace(each, applied_run=after.run) for each in current))
    swap_collection(paths, before, after)
    return after


def _changed(paths: StatePaths) -> StateError:
    return StateError(
        f"{paths.collection_file} was changed by another process",
        "run it again; only one process may write a collection",
    )


def _encode(state: CollectionState) -> bytes:
    body = asdict(state)
    del body["format"]
    return encode_json(KIND, FORMAT, body)


def _decode(data: bytes, paths: StatePaths) -> CollectionState:
    path = paths.collection_file
    body = decode_json(data, KIND, FORMAT, path)
    try:
        generations = tuple(_generation(value) for value in body.pop("generations"))
        state = CollectionState(format=FORMAT, generations=generations, **body)
        _check(state, paths)
    except StateError as error:
        raise damaged(path, error.message) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, "fields are missing, wrong, or unknown to this version") from error
    return state


def _generation(value: dict[str, Any]) -> Generation:
    stores = tuple(StoreBinding(**{**store, "signals": tuple(store["signals"])}) for store in value.pop("stores"))
    return Generation(stores=stores, **value)


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "number": int, "collection_fingerprint": str, "encoder_fingerprint": str, "model": str, "dense_dim": int,
    "multi_dim": int, "fields": Mapping, "stores": tuple, "status": str, "created": str, "retired": str,
    "applied_run": int,
}  # fmt: skip


def _check(state: CollectionState, paths: StatePaths) -> None:
    """StateError if the state breaks a rule of the format."""
    if state.format != FORMAT or state.collection != paths.collection:
        raise StateError(f"format {state.format} of collection {state.collection!r} does not belong into {paths.root}")
    if not isinstance(state.run, int) or state.run < 0:
        raise StateError(f"the run counter is {state.run!r}; it counts from 0")
    numbers = [generation.number for generation in state.generations]
    for generation in state.generations:
        _check_generation(generation)
    if numbers != sorted(set(numbers)) or (numbers and numbers[0] < 1):
        raise StateError(f"the generations {numbers} are not ascending from 1")
    live = [generation.number for generation in state.generations if generation.status == "live"]
    if live != ([] if state.live is None else [state.live]):
        raise StateError(f"live is {state.live}, but the generations with status live are {live}")


def _check_generation(generation: Generation) -> None:
    for field in fields(generation):
        value = getattr(generation, field.name)
        if not isinstance(value, _TYPES[field.name]) or isinstance(value, bool):
            raise StateError(f"{field.name} of a generation is {value!r}")
    if generation.status not in get_args(GenerationStatus):
        raise StateError(f"status {generation.status!r} of generation {generation.number} is unknown to this version")


def _check_succession(old: CollectionState | None, new: CollectionState) -> None:
    if old is None:
        return
    if new.run < old.run:
        raise StateError(f"the run counter may not fall from {old.run} to {new.run}")
    missing = {g.number for g in old.generations} - {g.number for g in new.generations}
    if missing:
        raise StateError(f"generation {min(missing)} may not leave the list; mark it dropped")
