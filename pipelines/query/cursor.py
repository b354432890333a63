"""Cursors: the order of a search as it was answered first, in a token that only we can make.

A token is url-safe base64 of a body and its HMAC-SHA256. The body is compressed JSON, read only after the signature
was found good: what is frozen, until when it may be used, and a digest of caller and request. It holds ids and scores
of hits that its caller was allowed to see, no texts and no store's words; it is not secret from that caller, and it
lets nobody see a hit: every page is checked again. Without a shared key a token is good for the process that made it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from m3core.errors import UsageError
from m3core.types import Identity, Signal
from pipelines.query.answer import Coverage, Origin
from pipelines.query.errors import CursorError
from pipelines.query.plan import QueryPlan
from pipelines.state.collection import CURSOR_SECONDS

# Rows that a cursor holds at most, chunks inside documents and copies among them: pages end there. About 70 characters
# each, so that a token stays well below what a request may carry.
MAX_FROZEN_ROWS = 2_000
# Version of the body, part of what is signed.
_FORMAT = b"m3c2"
_MAC_BYTES = hashlib.sha256().digest_size
_LEAST_KEY_BYTES = 32
_ORIGINS = tuple(Origin)
_AGAIN = "search again from the first page"


@dataclass(frozen=True, slots=True)
class FrozenScore:
    """One signal of a frozen chunk: raw score and rank (both None if missing), and how it came by them."""

    raw: float | None
    rank: int | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class FrozenChunk:
    """A chunk and its scores, in the order of the signals of `Frozen.weights`."""

    id: str
    score: float
    signals: tuple[FrozenScore, ...]


@dataclass(frozen=True, slots=True)
class FrozenDocument:
    """One document: its best chunk, others that are shown with it, ids of copies, and how many chunks it has more."""

    best: FrozenChunk
    others: tuple[FrozenChunk, ...] = ()
    copies: tuple[str, ...] = ()
    further_chunks: int = 0

    @property
    def ids(self) -> list[str]:
        """Every row that the page needs of it."""
        return [self.best.id, *(other.id for other in self.others), *self.copies]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is left of a search as it was answered first. `next` is the place of `documents[0]` in the whole order.

    `created` tells a generation from one of the same number in a state folder that was made anew.
    """

    generation: int
    created: str
    next: int
    weights: Mapping[Signal, float]
    coverage: Mapping[Signal, Coverage]
    candidates: int
    documents: tuple[FrozenDocument, ...]


def binding(identity: Identity, query: str, plan: QueryPlan) -> str:
    """A digest of the caller and of all that decides the order: the plan without what a page may choose."""
    decided = plan.as_json()
    for free in ("limit", "offset", "deadline_s"):
        del decided[free]
    caller = [identity.tenant, sorted(set(identity.principals))]
    return hashlib.sha256(json.dumps([caller, query, decided], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Cursors:
    """Makes and reads tokens. `key` is shared by the processes that are to take each other's; `clock` is wall time.

    `scope` is what a token is good for besides, such as the collection: other scopes do not take it. Raises UsageError
    for a key of less than 32 bytes.
    """

    key: bytes = field(default_factory=lambda: secrets.token_bytes(_LEAST_KEY_BYTES), repr=False)
    lifetime: float = CURSOR_SECONDS
    clock: Callable[[], float] = time.time
    scope: str = ""

    def __post_init__(self) -> None:
        if len(self.key) < _LEAST_KEY_BYTES:
            raise UsageError(f"the key of the cursors has {len(self.key)} bytes; at least {_LEAST_KEY_BYTES} are safe")

    def seal(self, frozen: Frozen, bound: str, expires: float | None = None) -> str:
        """The token of a search. `expires` is that of the token before, so that leafing does not prolong it."""
        until = self.clock() + self.lifetime if expires is None else expires
        body = zlib.compress(json.dumps([until, bound, _encode(frozen)], separators=(",", ":")).encode())
        return base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def open(self, token: str) -> Opened:
        """What a token holds. Raises CursorError if it is not ours, was changed, or has expired."""
        try:
            sealed = base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except (ValueError, binascii.Error):
            sealed = b""
        mac, body = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise CursorError("this cursor was not made here, or was changed on its way", _AGAIN)
        until, bound, value = json.loads(zlib.decompress(body))
        if self.clock() >= until:
            raise CursorError(f"the cursor has expired: it can be used for {self.lifetime:g} s", _AGAIN)
        return Opened(_decode(value), bound, until)

    def _mac(self, body: bytes) -> bytes:
        scope = self.scope.encode()
        return hmac.new(self.key, _FORMAT + len(scope).to_bytes(4) + scope + body, hashlib.sha256).digest()


@dataclass(frozen=True, slots=True)
class Opened:
    """What a token of ours holds, and until when (wall time) it may be used."""

    frozen: Frozen
    bound: str
    expires: float

    def check(self, bound: str) -> None:
        """Raises CursorError if caller or request are not those of the first page."""
        if not hmac.compare_digest(self.bound, bound):
            raise CursorError("the cursor is of another caller or another request", _AGAIN)


def _encode(frozen: Frozen) -> dict[str, Any]:
    return {
        "g": frozen.generation,
        "c": frozen.created,
        "n": frozen.next,
        "w": dict(frozen.weights),
        "s": dict(frozen.coverage),
        "k": frozen.candidates,
        "d": [_document(each) for each in frozen.documents],
    }


def _decode(value: Mapping[str, Any]) -> Frozen:
    return Frozen(
        generation=value["g"],
        created=value["c"],
        next=value["n"],
        weights={Signal(signal): weight for signal, weight in value["w"].items()},
        coverage={Signal(signal): Coverage(coverage) for signal, coverage in value["s"].items()},
        candidates=value["k"],
        documents=tuple(
            FrozenDocument(_read(best), tuple(map(_read, others)), tuple(map(_long, copies)), further)
            for best, others, copies, further in value["d"]
        ),
    )


def _document(document: FrozenDocument) -> list[Any]:
    others, copies = list(map(_chunk, document.others)), list(map(_short, document.copies))
    return [_chunk(document.best), others, copies, document.further_chunks]


def _chunk(chunk: FrozenChunk) -> list[Any]:
    parts = [[part.raw, part.rank, _ORIGINS.index(part.origin)] for part in chunk.signals]
    return [_short(chunk.id), chunk.score, parts]


def _read(value: Sequence[Any]) -> FrozenChunk:
    chunk_id, score, parts = value
    return FrozenChunk(
        _long(chunk_id), score, tuple(FrozenScore(raw, rank, _ORIGINS[origin]) for raw, rank, origin in parts)
    )


def _short(chunk_id: str) -> str:
    return base64.b64encode(UUID(chunk_id).bytes).decode()


def _long(short: str) -> str:
    return str(UUID(bytes=base64.b64decode(short)))
