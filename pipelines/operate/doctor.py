"""Is everything that a configuration names there and fit for work? The model, the state folder, and every store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from m3core.checkpoint import model_spec
from m3core.disk import disk_usage, require_free
from m3core.errors import ExitCode, M3Error, RefusedError, StateError
from m3core.fingerprint import encoder_fingerprint
from pipelines.operate.collection import Place
from pipelines.operate.doctor_check import Check, Finding, checked, scarce
from pipelines.operate.doctor_store import StoreHealth, examine_store
from pipelines.state.collection import CollectionState, read_collection

SCHEMA_VERSION = 1
# Where several things failed, the code of the first of these is the command's.
_WORST_FIRST = (
    ExitCode.INTERNAL,
    ExitCode.USAGE,
    ExitCode.LOCKED,
    ExitCode.REFUSED,
    ExitCode.UNREACHABLE,
)


@dataclass(frozen=True)
class Health:
    """What `m3 doctor` says."""

    collection: str
    model: tuple[Check, ...]
    state: tuple[Check, ...]
    stores: tuple[StoreHealth, ...]

    @property
    def checks(self) -> Iterator[tuple[str, Check]]:
        """Every check with the part that it is about, in the order of the screen."""
        yield from (("model", check) for check in self.model)
        yield from (("state", check) for check in self.state)
        for store in self.stores:
            yield from ((store.name, check) for check in store.checks)

    @property
    def failures(self) -> list[M3Error]:
        """What failed; advice is none."""
        return [check.failure for _, check in self.checks if check.failure is not None]

    @property
    def exit_code(self) -> ExitCode:
        """0 if nothing failed, else the worst failure's."""
        codes = {failure.exit_code for failure in self.failures}
        if not codes:
            return ExitCode.OK
        return next((code for code in _WORST_FIRST if code in codes), ExitCode.INTERNAL)

    def as_json(self) -> dict[str, Any]:
        """The document that `m3 doctor --json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "collection": self.collection,
            "ok": not self.failures,
            "model": [check.as_json() for check in self.model],
            "state": [check.as_json() for check in self.state],
            "stores": {store.name: store.as_json() for store in self.stores},
        }


def examine(place: Place) -> Health:
    """Look at everything; what fails is a part of the answer. Nothing that is there is changed."""
    state, state_checks = _examine_state(place)
    return Health(
        collection=place.name,
        model=tuple(_examine_model(place, state)),
        state=tuple(state_checks),
        stores=tuple(examine_store(place, name, state) for name in place.config.stores),
    )


def _examine_model(place: Place, state: CollectionState | None) -> Iterator[Check]:
    model = place.config.model

    def whole() -> str:
        spec = model_spec(model.name, model.revision, place.base, model.long_pooling, model.precision)
        found = encoder_fingerprint(spec)  # reads every byte of the weights once
        live = None if state is None else state.current_generation
        if live is not None and live.encoder_fingerprint != found:
            raise RefusedError(
                f"generation {live.number} was built with the model {live.encoder_fingerprint[:14]}, "
                f"{model.name} is {found[:14]}",
                "name the model that it was built with, or give the collection another name",
            )
        return f"{model.name} · {spec.dense_dim} dense, {spec.multi_dim} multi · {found[:14]}"

    yield checked("readable", whole)


def _examine_state(place: Place) -> tuple[CollectionState | None, list[Check]]:
    found: list[CollectionState | None] = []

    def readable() -> str:
        try:
            state = read_collection(place.paths)
        except OSError as error:
            where, why = place.paths.collection_file, os.strerror(error.errno or 0)
            raise StateError(f"{where} cannot be read: {why}", "check storage.path and its permissions") from None
        found.append(state)
        live = None if state is None else state.current_generation
        return "no run has begun" if live is None else f"generation {live.number} {live.status}"

    checks = [checked("readable", readable), checked("writable", lambda: _writable(place)), _disk(place)]
    return (found[0] if found else None), checks


def _writable(place: Place) -> str:
    """A file can be made where state and embedded stores lie, or the folder can; nothing is left behind."""
    folder = next(part for part in (place.storage, *place.storage.parents) if part.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-doctor-"):
            pass
    except OSError as error:
        raise StateError(
            f"{folder} cannot be written: {os.strerror(error.errno or 0)}",
            f"give this user the right to write {folder}",
        ) from None
    return f"{place.storage} is writable" if folder == place.storage else f"{folder} is writable"


def _disk(place: Place) -> Check:
    def room() -> Finding:
        disk = disk_usage(place.storage)
        require_free(place.storage, place.config.ingest.min_free_bytes)
        return scarce(disk.free, disk.total)

    return checked("disk", room)
