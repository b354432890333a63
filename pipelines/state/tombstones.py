"""Tombstones of erased documents: what must not come back, by keyed hash.

They lie beside state folder and stores, in `<storage.path>/tombstones/<collection>/`: whoever restores yesterday's
state or yesterday's stores must meet today's tombstones. **A restore keeps this folder, or puts its newest copy back
last.** Files are only ever added, so unpacking an old backup over it takes nothing away.

    key                           32 random bytes, made with the first tombstone. Hashes of it are in receipts; ids
                                  cannot be guessed from them without this file
    <time>-<random>.json          one event, kind `threefold.tombstone`, format 1:
        event                     purge | lift
        at                        stamp (`clock.py`), later than that of every event before it
        documents                 hashes: HMAC-SHA256, under the key, of the JSON array [tenant, doc_id]
        tenants                   hashes of [tenant]: all documents of a tenant, also those to come

Of one hash the newest event counts. `purged.json` in the state folder (kind `threefold.purged`, format 1) has the names
of the purges that were carried out in that very state, as `applied`. A purge that is not among them was interrupted, or
the state was restored from before it: no run begins until it is carried out (again).
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from m3core.errors import RefusedError
from pipelines.state.clock import seconds_of, stamp
from pipelines.state.documents import DocumentKey
from pipelines.state.files import canonical_json, create_if_absent, damaged, make_folder, read_json, write_json
from pipelines.state.mirror import refresh
from pipelines.state.paths import StatePaths

KIND = "threefold.tombstone"
FORMAT = 1
_APPLIED_KIND = "threefold.purged"
_KEY_BYTES = 32
PURGE, LIFT = "purge", "lift"


@dataclass(frozen=True)
class Event:
    """One purge, or the lifting of tombstones; `documents` and `tenants` are hashes."""

    name: str
    event: str
    at: str
    documents: tuple[str, ...]
    tenants: tuple[str, ...]

    @property
    def hashes(self) -> tuple[str, ...]:
        """All of them."""
        return self.documents + self.tenants


@dataclass(frozen=True)
class Tombstones:
    """The events of a collection, oldest first."""

    key: bytes = b""
    events: tuple[Event, ...] = ()
    _seen: dict[str, str | None] = field(default_factory=dict, repr=False, compare=False)

    def document(self, tenant: str, doc_id: str) -> str:
        """The hash of a document."""
        return _hash(self.key, [tenant, doc_id])

    def tenant(self, tenant: str) -> str:
        """The hash of a tenant."""
        return _hash(self.key, [tenant])

    @cached_property
    def standing(self) -> frozenset[str]:
        """Hashes that block."""
        newest = {one: event.event for event in self.events for one in event.hashes}
        return frozenset(one for one, event in newest.items() if event == PURGE)

    def match(self, tenant: str, doc_id: str) -> str | None:
        """The tombstone that blocks a document (the tenant's before its own); None if nothing does."""
        if not self.standing:
            return None
        if tenant not in self._seen:
            of_tenant = self.tenant(tenant)
            self._seen[tenant] = of_tenant if of_tenant in self.standing else None
        if (found := self._seen[tenant]) is not None:
            return found
        own = self.document(tenant, doc_id)
        return own if own in self.standing else None

    def blocks(self, key: DocumentKey) -> bool:
        """Whether a document (tenant, doc_id) must not be ingested."""
        return self.match(*key) is not None

    def unapplied(self, applied: Collection[str]) -> list[Event]:
        """Purges that were not carried out, except those that were lifted whole."""
        waiting = (event for event in self.events if event.event == PURGE and event.name not in applied)
        return [event for event in waiting if not self.standing.isdisjoint(event.hashes)]


def read_tombstones(paths: StatePaths) -> Tombstones:
    """What stands now; nothing if nothing was ever purged. DamagedError if a file is damaged or the key is gone."""
    folder = paths.tombstones
    refresh(folder)
    files = sorted(folder.glob("*.json")) if folder.exists() else []
    if not files and not _key_file(folder).exists():
        return Tombstones()
    events = sorted((_read_event(path) for path in files), key=lambda event: (event.at, event.name))
    return Tombstones(_read_key(folder), tuple(events))


def with_key(paths: StatePaths) -> Tombstones:
    """The same; the key is made if there is none yet."""
    make_folder(paths.tombstones)
    if not any(paths.tombstones.glob("*.json")):
        create_if_absent(_key_file(paths.tombstones), secrets.token_bytes(_KEY_BYTES))
    return read_tombstones(paths)


def add_event(
    paths: StatePaths, event: str, *, documents: Iterable[DocumentKey] = (), tenants: Iterable[str] = ()
) -> Event:
    """Write an event, durable at once; under the lease."""
    before = with_key(paths)
    last = seconds_of(before.events[-1].at) if before.events else 0.0
    at = stamp(max(time.time(), last + 1e-3))  # a clock that was set back does not turn a lift into a purge
    body = {
        "event": event,
        "at": at,
        "documents": sorted({before.document(*key) for key in documents}),
        "tenants": sorted({before.tenant(tenant) for tenant in tenants}),
    }
    name = f"{at.replace(':', '').replace('-', '')}-{secrets.token_hex(4)}"
    write_json(paths.tombstones / f"{name}.json", KIND, FORMAT, body)
    return _event(name, body)


def read_applied(paths: StatePaths) -> set[str]:
    """Names of the purges that were carried out in this state."""
    try:
        body = read_json(_applied_file(paths), _APPLIED_KIND, FORMAT)
        return {str(name) for name in body["applied"]}
    except FileNotFoundError:
        return set()
    except (KeyError, TypeError) as error:
        raise damaged(_applied_file(paths), "fields are missing or wrong") from error


def mark_applied(paths: StatePaths, tombstones: Tombstones) -> None:
    """All purges so far are carried out."""
    make_folder(paths.root)
    names = sorted(event.name for event in tombstones.events if event.event == PURGE)
    write_json(_applied_file(paths), _APPLIED_KIND, FORMAT, {"applied": names})


def require_applied(paths: StatePaths) -> None:
    """RefusedError while a purge waits to be carried out in this state: what it erases would be written anew."""
    waiting = read_tombstones(paths).unapplied(read_applied(paths))
    if waiting:
        raise RefusedError(
            f"a purge of {waiting[0].at[:10]} is not carried out in {paths.root}: it was interrupted, or this state "
            "was restored from before it",
            "m3 purge --again",
        )


def _hash(key: bytes, parts: list[str]) -> str:
    return hmac.digest(key, canonical_json(parts), "sha256").hex()


def _key_file(folder: Path) -> Path:
    return folder / "key"


def _read_key(folder: Path) -> bytes:
    path = _key_file(folder)
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        raise damaged(path, "it is missing, but tombstones are there") from None
    if len(key) != _KEY_BYTES:
        raise damaged(path, f"it has {len(key)} bytes instead of {_KEY_BYTES}")
    return key


def _read_event(path: Path) -> Event:
    body = read_json(path, KIND, FORMAT)
    try:
        seconds_of(body["at"])
        event = _event(path.stem, body)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "fields are missing or wrong") from error
    if event.event not in (PURGE, LIFT):
        raise damaged(path, "its event is unknown to this version")
    return event


def _event(name: str, body: dict[str, Any]) -> Event:
    return Event(name, str(body["event"]), str(body["at"]), tuple(body["documents"]), tuple(body["tenants"]))


def _applied_file(paths: StatePaths) -> Path:
    return paths.root / "purged.json"
