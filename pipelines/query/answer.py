"""What a caller gets: frozen, and `as_json()` in the shape that others script against.

That shape is these classes: every field under its own name, in their order. service/schemas.py tells it to callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from m3core.types import Metadata, Signal

SCHEMA_VERSION = 1


class Origin(StrEnum):
    """How a hit came by the score of one signal."""

    RETRIEVED = "retrieved"
    COMPLETED = "completed"
    MISSING = "missing"


class Coverage(StrEnum):
    """What became of one signal in this answer."""

    OK = "ok"
    TIMEOUT = "timeout"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SignalScore:
    """One signal of one hit. `raw` and `rank` (from 1, among the candidates) are None where the score is missing."""

    raw: float | None
    rank: int | None
    weight: float
    contribution: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class MatchedToken:
    """A token that query and passage share; `product` is w_q * w_p, its part of the raw lexical score."""

    token: str
    product: float
    query_weight: float = 0.0
    passage_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Alignment:
    """The passage token that a query token met in MaxSim, with their dot product."""

    query: str
    passage: str
    value: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a hit scored: shared tokens and alignments, each largest first."""

    tokens: tuple[MatchedToken, ...]
    alignments: tuple[Alignment, ...]


@dataclass(frozen=True, slots=True)
class HitChunk:
    """Another chunk of a hit's document, with its own score."""

    id: str
    ordinal: int
    context: str
    text: str
    span: tuple[int, int]
    score: float
    signals: Mapping[Signal, SignalScore]


@dataclass(frozen=True, slots=True)
class Hit:
    """The best chunk of one document. The contributions of `signals` add up to `score`.

    `further_chunks` counts the document's other chunks among the candidates that were checked: the best 64, and more
    where the page needed more. `chunks` are the best of these, if the request asks for more than one. `same_text` names
    documents whose best chunk has this very text, and which are no hits of their own.
    """

    id: str
    doc_id: str
    ordinal: int
    title: str
    context: str
    text: str
    language: str
    score: float
    signals: Mapping[Signal, SignalScore]
    span: tuple[int, int]
    metadata: Metadata
    further_chunks: int = 0
    explanation: Explanation | None = None
    chunks: tuple[HitChunk, ...] = ()
    same_text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConditionCount:
    """One condition of the caller's filter and how many rows pass all the others."""

    condition: str
    without: int


@dataclass(frozen=True, slots=True)
class Emptiness:
    """Why there is no hit. Counts cover only rows that the caller may see."""

    reason: str
    visible: int | None = None
    passing: int | None = None
    conditions: tuple[ConditionCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer. `weights` are those of the signals that answered, summing to 1; `why` names each dropped one.

    `candidates` counts the rows that were ranked, after `rounds` of asking the stores for them, each twice as deep.
    `offset` is the place of the first hit in the whole order. `cursor` leads to the next page of a request that is
    paged; `gaps` are the places of this page whose document is gone since, or not visible any more.
    """

    query: str
    hits: tuple[Hit, ...]
    coverage: Mapping[Signal, Coverage]
    why: Mapping[Signal, str]
    generation: int
    weights: Mapping[Signal, float]
    candidates: int = 0
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None
    empty: Emptiness | None = None
    rounds: int = 1
    offset: int = 0
    cursor: str | None = None
    gaps: tuple[int, ...] = ()

    @property
    def degraded(self) -> bool:
        """True if a signal of the plan is not part of the scores."""
        return any(coverage is not Coverage.OK for coverage in self.coverage.values())

    def as_json(self) -> dict[str, Any]:
        """The fixed shape; a plan, and explanations of hits, only where they were asked for."""
        told = _json(self)
        begin = {name: told[name] for name in ("query", "hits", "coverage")}
        timings = {stage: round(milliseconds, 3) for stage, milliseconds in self.timings_ms.items()}
        return {"schema_version": SCHEMA_VERSION, **begin, "degraded": self.degraded, **told, "timings_ms": timings}


# Left out where there is none; every other field is always there.
_ON_REQUEST = frozenset({"plan", "explanation"})
_PLAIN = frozenset({str, int, float, bool, type(None)})


def _json(value: Any) -> Any:
    """JSON-ready: objects by the names of their fields, mappings by the values of their keys, tuples as lists."""
    kind: type = type(value)
    if kind in _PLAIN:  # nearly all values, and the other questions take long
        return value
    if names := _field_names(kind):
        parts = {name: getattr(value, name) for name in names}
        return {name: _json(part) for name, part in parts.items() if part is not None or name not in _ON_REQUEST}
    if isinstance(value, Mapping):
        return {str(key): _json(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_json(part) for part in value]
    return value.value if isinstance(value, StrEnum) else value


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    """Of a dataclass; none of any other type."""
    return tuple(each.name for each in fields(kind)) if is_dataclass(kind) else ()
