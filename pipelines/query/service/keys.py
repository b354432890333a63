"""API keys: made here, shown once, kept as hashes in one file that every process of the service looks at.

`<storage.path>/service/<collection>/keys.json`, a checksummed JSON cell (pipelines/state/files.py), kind
`threefold.keys`, format 1: `keys`, a list of `KeyRecord`. Nothing is taken out: a revoked or expired key stays listed,
so that an audit log can be read later.

A key is `m3_<id>_<secret>`: 64 random bits that name it and 256 that only its owner knows. Kept is the SHA-256 of the
whole key. A slow password hash would add nothing: it protects secrets that can be guessed, and nobody guesses 256
random bits; a fast one keeps the check out of every request's way.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from m3core.errors import LockedError, UsageError
from m3core.nearest import did_you_mean
from m3core.types import Identity
from pipelines.state.cell import CellConflictError, FileCell
from pipelines.state.clock import seconds_of, stamp
from pipelines.state.files import damaged, decode_json, encode_json

KIND = "threefold.keys"
FORMAT = 1
Scope = Literal["search", "encode", "act-as"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ANY_TENANT = "*"
MAX_DAYS = 3_650
_KEY = re.compile(r"m3_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[\w .@/-]{1,80}")
_ATTEMPTS = 5
_DAY = 86_400


@dataclass(frozen=True)
class KeyRecord:
    """What is known of one key. Times are stamps; `revoked` is "" while it is valid.

    A key with the scope `act-as` may name another identity of one of `act_as_tenants` (`*`: of any) per request.
    `per_minute` 0: no limit.
    """

    id: str
    name: str
    hash: str
    tenant: str
    principals: tuple[str, ...]
    scopes: tuple[Scope, ...]
    act_as_tenants: tuple[str, ...]
    per_minute: int
    created: str
    expires: str
    revoked: str = ""

    @property
    def identity(self) -> Identity:
        """Whom the key searches for."""
        return Identity(self.tenant, self.principals)

    def state(self, now: float) -> Literal["valid", "expired", "revoked"]:
        """Whether it opens anything at POSIX time `now`."""
        if self.revoked:
            return "revoked"
        return "valid" if now < seconds_of(self.expires) else "expired"


@dataclass(frozen=True)
class KeyWish:
    """What a new key is to be. Raises UsageError if a value breaks a rule."""

    name: str
    identity: Identity
    scopes: tuple[str, ...] = ("search",)
    act_as_tenants: tuple[str, ...] = ()
    per_minute: int = 600
    days: int = 90

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError("the name of a key has 1 to 80 letters, digits, spaces and . @ / - _", "choose another")
        for scope in self.scopes:
            if scope not in SCOPES:
                raise UsageError(f"scope {scope[:40]!r}: no such scope", did_you_mean(scope[:40], SCOPES))
        if not self.scopes:
            raise UsageError("the key has no scope", f"name some of {', '.join(SCOPES)}")
        if self.act_as_tenants and "act-as" not in self.scopes:
            raise UsageError("tenants to act for are named, but not the scope act-as", "add --scope act-as")
        if not 1 <= self.days <= MAX_DAYS:
            raise UsageError(f"{self.days} days: a key lasts 1 to {MAX_DAYS} days", "choose another number of days")
        if self.per_minute < 0:
            raise UsageError(f"{self.per_minute} requests a minute: it must be 0 (no limit) or more", "choose another")


class KeyFile:
    """The keys of one collection's service, for whoever makes and revokes them."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock

    @classmethod
    def of(cls, storage: Path, collection: str) -> KeyFile:
        """The file for `collection` under the configuration's storage folder."""
        return cls(service_folder(storage, collection) / "keys.json")

    def records(self) -> tuple[KeyRecord, ...]:
        """All keys, oldest first. Raises StateError if the file is damaged."""
        found = FileCell(self.path).read()
        return () if found is None else _decode(found[0], self.path)

    def create(self, wish: KeyWish) -> tuple[str, KeyRecord]:
        """Make a key: the text that opens, which is kept nowhere, and its record."""
        key_id, now = secrets.token_hex(8), self._clock()
        text = f"m3_{key_id}_{secrets.token_urlsafe(32)}"
        record = KeyRecord(
            id=key_id,
            name=wish.name,
            hash=_hash(text),
            tenant=wish.identity.tenant,
            principals=wish.identity.principals,
            scopes=tuple(scope for scope in SCOPES if scope in wish.scopes),
            act_as_tenants=wish.act_as_tenants or ((wish.identity.tenant,) if "act-as" in wish.scopes else ()),
            per_minute=wish.per_minute,
            created=stamp(now),
            expires=stamp(now + wish.days * _DAY),
        )
        self._change(lambda records: (*records, record))
        return text, record

    def revoke(self, given: str) -> KeyRecord:
        """Make the key whose id begins with `given` (or whose name it is) open nothing from now on; idempotent.

        Raises UsageError if it is none's or several keys'.
        """
        found = [each for each in self.records() if each.name == given or (given and each.id.startswith(given))]
        if len(found) != 1:
            what = "no key has" if not found else f"{len(found)} keys have"
            raise UsageError(f"{what} the id or name {given[:80]!r}", "m3 keys list shows ids and names")
        revoked = replace(found[0], revoked=found[0].revoked or stamp(self._clock()))
        self._change(lambda records: tuple(revoked if each.id == revoked.id else each for each in records))
        return revoked

    def _change(self, change: Callable[[tuple[KeyRecord, ...]], Sequence[KeyRecord]]) -> None:
        cell = FileCell(self.path)
        for _ in range(_ATTEMPTS):
            found = cell.read()
            before = () if found is None else _decode(found[0], self.path)
            body = {"keys": [asdict(record) for record in change(before)]}
            try:
                cell.replace(encode_json(KIND, FORMAT, body), found[1] if found else None)
            except CellConflictError:
                continue
            return
        raise LockedError(f"{self.path} is changed by other processes all the time", "run it again")


class KeyRing:
    """The keys as a running service sees them: the file is looked at for every request and read when it changed.

    So a key that was revoked opens nothing from the next request on, in every process that sees the same file.
    """

    def __init__(self, file: KeyFile, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._seen: tuple[int, ...] | None = None
        self._by_id: dict[str, KeyRecord] = {}

    def any(self) -> bool:
        """Whether a key was ever made here. Raises StateError if the file is damaged."""
        return bool(self._current())

    def opens(self, text: str) -> KeyRecord | None:
        """The key's record, or None if it is unknown, revoked or expired."""
        found = _KEY.fullmatch(text)
        if found is None:
            return None
        record = self._current().get(found[1])
        if record is None or not hmac.compare_digest(_hash(text), record.hash):
            return None
        return record if record.state(self._clock()) == "valid" else None

    def _current(self) -> dict[str, KeyRecord]:
        try:
            status = self._file.path.stat()
        except FileNotFoundError:
            self._seen, self._by_id = None, {}
            return self._by_id
        # The file is only ever replaced, so another one has another inode or time.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._by_id = {record.id: record for record in self._file.records()}
            self._seen = seen
        return self._by_id


def service_folder(storage: Path, collection: str) -> Path:
    """Where the service keeps what is its own."""
    return storage / "service" / collection


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _decode(data: bytes, path: Path) -> tuple[KeyRecord, ...]:
    body = decode_json(data, KIND, FORMAT, path)
    try:
        return tuple(_record(value) for value in body["keys"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "fields are missing, wrong, or unknown to this version") from error


def _record(value: dict[str, Any]) -> KeyRecord:
    lists = {name: tuple(value[name]) for name in ("principals", "scopes", "act_as_tenants")}
    record = KeyRecord(**{**value, **lists})
    seconds_of(record.expires)
    return record
