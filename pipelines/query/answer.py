"""What a caller gets: frozen, and `as_json()` in the shape that others script against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
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

    def as_json(self) -> dict[str, Any]:
        """The five values under their own names."""
        return {
            "raw": self.raw,
            "rank": self.rank,
            "weight": self.weight,
            "contribution": self.contribution,
            "origin": self.origin.value,
        }


@dataclass(frozen=True, slots=True)
class MatchedToken:
    """A token that query and passage share; `product` is w_q * w_p, its part of the raw lexical score."""

    token: str
    product: float
    query_weight: float = 0.0
    passage_weight: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The four values under their own names."""
        return {
            "token": self.token,
            "product": self.product,
            "query_weight": self.query_weight,
            "passage_weight": self.passage_weight,
        }


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

    def as_json(self) -> dict[str, Any]:
        """Lists of objects, largest first."""
        return {
            "tokens": [each.as_json() for each in self.tokens],
            "alignments": [
                {"query": each.query, "passage": each.passage, "value": each.value} for each in self.alignments
            ],
        }


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

    def as_json(self) -> dict[str, Any]:
        """The values under their own names."""
        return {
            "id": self.id,
            "ordinal": self.ordinal,
            "context": self.context,
            "text": self.text,
            "span": list(self.span),
            "score": self.score,
            "signals": {signal.value: score.as_json() for signal, score in self.signals.items()},
        }


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

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values; `explanation` only where one was asked for."""
        value: dict[str, Any] = {
            "id": self.id,
            "doc_id": self.doc_id,
            "ordinal": self.ordinal,
            "title": self.title,
            "context": self.context,
            "text": self.text,
            "language": self.language,
            "score": self.score,
            "signals": {signal.value: score.as_json() for signal, score in self.signals.items()},
            "span": list(self.span),
            "metadata": {key: list(part) if isinstance(part, tuple) else part for key, part in self.metadata.items()},
            "further_chunks": self.further_chunks,
            "chunks": [chunk.as_json() for chunk in self.chunks],
            "same_text": list(self.same_text),
        }
        if self.explanation is not None:
            value["explanation"] = self.explanation.as_json()
        return value


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

    def as_json(self) -> dict[str, Any]:
        """The sentence and the counts behind it."""
        return {
            "reason": self.reason,
            "visible": self.visible,
            "passing": self.passing,
            "conditions": [{"condition": each.condition, "without": each.without} for each in self.conditions],
        }


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
    timings_ms: Mapping[str, float]
    candidates: int = 0
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
        """The fixed shape; `plan` only where an explanation was asked for."""
        value: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "query": self.query,
            "hits": [hit.as_json() for hit in self.hits],
            "coverage": {signal.value: coverage.value for signal, coverage in self.coverage.items()},
            "degraded": self.degraded,
            "why": {signal.value: reason for signal, reason in self.why.items()},
            "generation": self.generation,
            "weights": {signal.value: weight for signal, weight in self.weights.items()},
            "candidates": self.candidates,
            "timings_ms": {stage: round(milliseconds, 3) for stage, milliseconds in self.timings_ms.items()},
            "empty": self.empty.as_json() if self.empty is not None else None,
            "rounds": self.rounds,
            "offset": self.offset,
            "cursor": self.cursor,
            "gaps": list(self.gaps),
        }
        if self.plan is not None:
            value["plan"] = dict(self.plan)
        return value
