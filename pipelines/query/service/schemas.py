"""What goes over the wire: the models behind the OpenAPI document, for the service and the Python client alike.

Requests are strict and refuse unknown names. Answers may gain fields; nothing here is taken away or renamed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.query.request import MAX_CHUNKS as MAX_HIT_CHUNKS
from pipelines.query.request import MAX_OFFSET, MAX_QUERY_CHARS, MAX_TIMEOUT, MIN_TIMEOUT
from pipelines.query.service.settings import MAX_CHUNKS, MAX_FACETS, MAX_HITS, MAX_SNIPPET, MAX_TEXTS

MAX_FILTER_CHARS = 4_096
MAX_CURSOR_CHARS = 192 << 10
SignalName = Literal["dense", "lexical", "multi"]
FusionName = Literal["weighted-sum", "reciprocal-rank"]
MetadataJson = str | int | float | bool | list[str]


class Asked(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Told(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="allow", frozen=True)


class WeightsBody(Asked):
    """Weight of each signal; only their proportions matter."""

    dense: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    lexical: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    multi: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class SearchBody(Asked):
    """One search. What is left out comes from the service's configuration."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS, description="the question, any language")]
    limit: Annotated[int | None, Field(ge=1, le=MAX_HITS, description="documents on the page")] = None
    filter: Annotated[
        str,
        Field(max_length=MAX_FILTER_CHARS, description='conditions on declared fields: year >= 2024 and kind = "x"'),
    ] = ""
    preset: Annotated[str | None, Field(max_length=60, description="named weights; `weights` wins")] = None
    weights: WeightsBody | None = None
    signals: Annotated[list[SignalName] | None, Field(min_length=1, max_length=3, description="only these")] = None
    explain: Annotated[bool, Field(description="say why each hit is where it is; takes longer")] = False
    timeout_s: Annotated[float | None, Field(ge=MIN_TIMEOUT, le=MAX_TIMEOUT, description="seconds for all stores")] = (
        None
    )
    snippet: Annotated[
        int, Field(ge=0, le=MAX_SNIPPET, description="code points of a snippet with marks per hit; 0: none")
    ] = 0
    facets: Annotated[
        list[Annotated[str, Field(max_length=64)]],
        Field(max_length=MAX_FACETS, description="fields to count over the best candidates; first page only"),
    ] = []
    require: Annotated[
        list[SignalName], Field(max_length=3, description="signals without which there is to be no answer")
    ] = []
    min_score: Annotated[float | None, Field(description="documents below it are left out")] = None
    chunks: Annotated[int, Field(ge=1, le=MAX_HIT_CHUNKS, description="best chunks of each document")] = 1
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET, description="documents to skip")] = 0
    paged: Annotated[bool, Field(description="answer with a cursor, which keeps the order for the next pages")] = False
    cursor: Annotated[
        str | None, Field(max_length=MAX_CURSOR_CHARS, description="of the page before, with the same request")
    ] = None
    fusion: Annotated[FusionName, Field(description="of the signals' scores, or of their ranks")] = "weighted-sum"
    quotes: Annotated[bool, Field(description='words in "quotes" must stand in the text as they are')] = True
    once: Annotated[bool, Field(description="documents with one and the same best text are one hit")] = True


class SignalScoreTold(Told):
    """One signal of one hit. `raw` and `rank` are null where the score is missing."""

    raw: float | None
    rank: int | None
    weight: float
    contribution: float
    origin: str


class MatchedTokenTold(Told):
    """A token that query and passage share, and its part of the raw lexical score."""

    token: str
    product: float
    query_weight: float
    passage_weight: float


class AlignmentTold(Told):
    """The passage token that a query token met in MaxSim."""

    query: str
    passage: str
    value: float


class ExplanationTold(Told):
    """Shared tokens and alignments, largest first."""

    tokens: list[MatchedTokenTold]
    alignments: list[AlignmentTold]


class SnippetTold(Told):
    """A part of the text. `marks` are [start, end) in code points of `text` that match words of the query."""

    text: str
    marks: list[tuple[int, int]]
    cut_before: bool
    cut_after: bool


class HitChunkTold(Told):
    """Another chunk of a hit's document, with its own score."""

    id: str
    ordinal: int
    context: str
    text: str
    span: tuple[int, int]
    score: float
    signals: dict[str, SignalScoreTold]


class HitTold(Told):
    """The best chunk of one document. The contributions of `signals` add up to `score`."""

    id: str
    doc_id: str
    ordinal: int
    title: str
    context: str
    text: str
    language: str
    score: float
    signals: dict[str, SignalScoreTold]
    span: tuple[int, int]
    metadata: dict[str, MetadataJson]
    further_chunks: int
    chunks: list[HitChunkTold] = []
    same_text: list[str] = []
    explanation: ExplanationTold | None = None
    snippet: SnippetTold | None = None


class ConditionTold(Told):
    """One condition of the filter and how many rows pass all the others."""

    condition: str
    without: int


class EmptyTold(Told):
    """Why there is no hit. Counts cover only rows that the caller may see."""

    reason: str
    visible: int | None
    passing: int | None
    conditions: list[ConditionTold]


class FacetValueTold(Told):
    """One value of a field and in how many documents it is."""

    value: str | int | float | bool
    count: int


class FacetsTold(Told):
    """Values of fields, counted over the best `documents` candidates, not over the collection."""

    documents: int
    fields: dict[str, list[FacetValueTold]]


class SearchTold(Told):
    """The answer to a search. `coverage` says per signal whether it is part of the scores.

    `cursor` leads to the next page of a paged search; `gaps` are places whose document is gone, or hidden, since.
    """

    schema_version: int
    query: str
    hits: list[HitTold]
    coverage: dict[str, str]
    degraded: bool
    why: dict[str, str]
    generation: int
    weights: dict[str, float]
    candidates: int
    timings_ms: dict[str, float]
    empty: EmptyTold | None
    rounds: int = 1
    offset: int = 0
    cursor: str | None = None
    gaps: list[int] = []
    plan: dict[str, Any] | None = None
    facets: FacetsTold | None = None


class ChunkTold(Told):
    """One stored part of a document. `span` counts code points of the document's text."""

    id: str
    ordinal: int
    span: tuple[int, int]
    context: str
    text: str


class DocumentTold(Told):
    """A document as far as it is stored: `total` chunks, of which `chunks` begin at `offset`."""

    doc_id: str
    generation: int
    title: str
    language: str
    metadata: dict[str, MetadataJson]
    total: int
    offset: int
    chunks: Annotated[list[ChunkTold], Field(max_length=MAX_CHUNKS)]


class CollectionTold(Told):
    """What can be searched. `rows` counts what the caller may see; `generation` is null before the first run ended."""

    name: str
    generation: int | None
    created: str | None
    rows: int
    signals: list[str]
    fields: dict[str, str]
    presets: dict[str, dict[str, float]]
    default_preset: str


class CollectionsTold(Told):
    """All collections of this service."""

    collections: list[CollectionTold]


class EncodeBody(Asked):
    """Queries to encode, as a search would."""

    texts: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS)]], Field(min_length=1, max_length=MAX_TEXTS)
    ]
    signals: Annotated[list[SignalName] | None, Field(min_length=1, max_length=3, description="only these")] = None


class LexicalTold(Told):
    """Token ids, ascending, and their weights."""

    ids: list[int]
    weights: list[float]


class VectorsTold(Told):
    """One encoded query: dense [D], lexical weights, multi [T][D']; null what was not asked for."""

    dense: list[float] | None = None
    lexical: LexicalTold | None = None
    multi: list[list[float]] | None = None


class EncodeTold(Told):
    """Vectors in the order of the texts. Those of different fingerprints never meet."""

    encoder_fingerprint: str
    vectors: list[VectorsTold]


class LiveTold(Told):
    """The process answers."""

    status: Literal["live"]


class ReadyTold(Told):
    """Whether a search would be answered: `ok`, or what stands in the way, per part."""

    status: Literal["ready", "not-ready"]
    checks: dict[str, str]


class ProblemTold(Told):
    """RFC 9457. `code` is stable; `request_id` finds the line in the service's log."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str
    request_id: str
    errors: list[dict[str, str]] | None = None
