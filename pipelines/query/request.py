"""What a caller asks: one frozen request, checked before anything is opened."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from connectors.filters.tree import Everything, Filter
from m3core.errors import UsageError
from m3core.fusion import Weights
from m3core.nearest import did_you_mean
from m3core.types import ALL_SIGNALS, Identity, Signal

NO_FILTER = Everything()
MAX_QUERY_CHARS = 8_192
MAX_LIMIT = 1_000
MAX_OFFSET = 1_000
MAX_CHUNKS = 10
# Twice what a cursor over as many rows as one holds has.
MAX_CURSOR_CHARS = 256 << 10
# In less than that nothing can be asked over a network.
MIN_TIMEOUT = 0.01
MAX_TIMEOUT = 300.0
MAX_PRINCIPALS = 1_000

# Tab and line breaks are white space that people paste; every other control character is a mistake or an attack.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


class Fusion(StrEnum):
    """How the signals become one score: their weighted sum, or ranks alone where their scores cannot be compared."""

    WEIGHTED_SUM = "weighted-sum"
    RECIPROCAL_RANK = "reciprocal-rank"


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search. What is None comes from the configuration.

    filter      a tree or its text
    weights     win over `preset`; `signals` restricts what is asked
    timeout     seconds from the encoding of the query to the texts of the page
    require     signals without which there is to be no answer, but DegradedError
    min_score   documents below it are left out
    chunks      the best so many chunks of each document are part of its hit
    offset      documents to skip; `paged` gives a cursor instead, whose pages keep the order of the first one
    cursor      of the page before; all else must be as it was then, apart from `limit`, `timeout` and `explain`
    quotes      whether "words in quotes" must stand in the text as they are
    once        whether documents whose best chunks have one and the same text are one hit

    Raises UsageError if a value breaks a rule.
    """

    query: str
    identity: Identity
    limit: int | None = None
    filter: Filter | str = NO_FILTER
    preset: str | None = None
    weights: Weights | None = None
    signals: tuple[Signal, ...] | None = None
    explain: bool = False
    timeout: float | None = None
    require: tuple[Signal, ...] = ()
    min_score: float | None = None
    chunks: int = 1
    offset: int = 0
    paged: bool = False
    cursor: str | None = None
    fusion: Fusion = Fusion.WEIGHTED_SUM
    quotes: bool = True
    once: bool = True

    def __post_init__(self) -> None:
        _check_query(self.query)
        if self.limit is not None and not 1 <= self.limit <= MAX_LIMIT:
            raise UsageError(f"limit {self.limit}: it must lie within 1..{MAX_LIMIT}", "ask for fewer hits")
        if self.timeout is not None and not MIN_TIMEOUT <= self.timeout <= MAX_TIMEOUT:
            raise UsageError(f"timeout {self.timeout}: it must lie within {MIN_TIMEOUT:g}..{MAX_TIMEOUT:g} seconds")
        if self.signals is not None and not self.signals:
            raise UsageError("signals: none was named", f"name some of {', '.join(ALL_SIGNALS)}")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise UsageError(f"min_score {self.min_score}: it must be a finite number")
        _check_within("chunks", self.chunks, 1, MAX_CHUNKS)
        _check_within("offset", self.offset, 0, MAX_OFFSET)
        if self.cursor is not None:
            _check_cursor(self.cursor, self.offset)
        _check_identity(self.identity)


def parse_identity(text: str) -> Identity:
    """`TENANT:PRINCIPAL,PRINCIPAL` as the option `--as` has it; no principals means that nothing is visible.

    Raises UsageError if the tenant or the colon is missing.
    """
    tenant, colon, rest = text.partition(":")
    if not colon or not tenant.strip():
        raise UsageError(
            f"--as {text[:80]!r}: it must be TENANT:PRINCIPALS",
            "separate principals by commas, for example acme:staff,hr",
        )
    return Identity(tenant.strip(), tuple(part.strip() for part in rest.split(",") if part.strip()))


def parse_signals(text: str, option: str = "--signals") -> tuple[Signal, ...]:
    """`dense,multi` as the option has it, in the fixed order. Raises UsageError on an unknown name."""
    named = [part.strip() for part in text.split(",") if part.strip()]
    for name in named:
        if name not in ALL_SIGNALS:
            raise UsageError(f"{option} {name[:40]!r}: no such signal", did_you_mean(name, ALL_SIGNALS))
    if not named:
        raise UsageError(f"{option.lstrip('-')}: none was named", f"name some of {', '.join(ALL_SIGNALS)}")
    return tuple(signal for signal in ALL_SIGNALS if signal in named)


def parse_fusion(text: str) -> Fusion:
    """`weighted-sum` or `reciprocal-rank` as the option `--fusion` has it. Raises UsageError on another name."""
    known = {each.value: each for each in Fusion}
    if text not in known:
        raise UsageError(f"--fusion {text[:40]!r}: no such way to make one score", did_you_mean(text[:40], known))
    return known[text]


def _check_query(query: str) -> None:
    # The text itself stays out of the messages: queries are personal.
    if not query.strip():
        raise UsageError("the query is empty; it needs at least one word", 'm3 search "your question"')
    if len(query) > MAX_QUERY_CHARS:
        raise UsageError(f"the query has {len(query)} characters; at most {MAX_QUERY_CHARS} are read", "shorten it")
    if (found := _CONTROLS.search(query)) is not None:
        raise UsageError(f"the query has the control character {_place(found)}", "remove it")
    if (found := _SURROGATES.search(query)) is not None:
        raise UsageError(f"the query has the lone surrogate {_place(found)}; that is no text", "send it as UTF-8")


def _place(found: re.Match[str]) -> str:
    return f"U+{ord(found.group()):04X} at character {found.start() + 1}"


def _check_within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name} {value}: it must lie within {least}..{most}")


def _check_cursor(cursor: str, offset: int) -> None:
    if offset:
        raise UsageError("offset and cursor are both given", "the cursor knows where its page begins")
    if len(cursor) > MAX_CURSOR_CHARS:
        raise UsageError(f"the cursor has {len(cursor)} characters; none of ours has more than {MAX_CURSOR_CHARS}")


def _check_identity(identity: Identity) -> None:
    if not identity.tenant:
        raise UsageError("the identity has no tenant", "search as TENANT:PRINCIPALS")
    if len(identity.principals) > MAX_PRINCIPALS:
        raise UsageError(
            f"the identity has {len(identity.principals)} principals; at most {MAX_PRINCIPALS} are taken",
            "name groups instead of their members",
        )
