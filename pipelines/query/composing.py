"""What was found -> the answer: hits with their scores, whether they were just ranked or come from a cursor. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from connectors.protocol import Payload
from m3core.types import Signal
from pipelines.query.answer import Answer, Coverage, Hit, HitChunk, Origin, SignalScore
from pipelines.query.cursor import MAX_FROZEN_ROWS, Frozen, FrozenChunk, FrozenDocument, FrozenScore
from pipelines.query.finding import Found
from pipelines.query.fusing import contribution, signal_scores
from pipelines.query.page import Place
from pipelines.query.plan import QueryPlan
from pipelines.query.request import Fusion

Signals = Mapping[Signal, SignalScore]

# A cursor keeps no store's own words: its caller can read it.
_FROZEN_WHY = "did not answer when the search was first asked"


def found_hits(found: Found) -> list[Hit]:
    """The hits of the page, without those before it."""
    plan = found.plan
    places = found.places[plan.offset : plan.wanted]
    scores = _scores(found, places)
    return [_hit(place, scores) for place in places]


def freeze(found: Found, created: str) -> Frozen | None:
    """The documents behind the page, as many as a cursor holds; None if there is none."""
    plan = found.plan
    places = _within(found.places[plan.wanted :], MAX_FROZEN_ROWS)
    if not places:
        return None
    scores = _scores(found, places)
    return Frozen(
        generation=plan.generation,
        created=created,
        next=plan.wanted,
        weights=found.gathered.weights,
        coverage=_coverage(found),
        candidates=len(found.gathered.candidates.ids),
        documents=tuple(_frozen_document(place, scores) for place in places),
    )


@dataclass(frozen=True, slots=True)
class Thawed:
    """A page of a cursor: what is still there of it, and the places in the whole order of what is not."""

    hits: tuple[Hit, ...]
    gaps: tuple[int, ...]


def thaw(frozen: Frozen, plan: QueryPlan, payloads: Mapping[str, Payload]) -> Thawed:
    """The first `plan.limit` documents of a cursor, as far as their rows are among `payloads`."""
    hits, gaps = [], []
    for place, document in enumerate(frozen.documents[: plan.limit], start=frozen.next):
        if document.best.id not in payloads:
            gaps.append(place)
            continue
        chunks = (document.best, *document.others)
        scores = {chunk.id: _thawed_scores(chunk, frozen.weights, plan.fusion) for chunk in chunks}
        hits.append(_hit(_place(document, payloads), scores))
    return Thawed(tuple(hits), tuple(gaps))


def compose(query: str, found: Found, hits: Sequence[Hit]) -> Answer:
    """The answer of a search; timings, emptiness and cursor are added by the router."""
    plan = found.plan
    return Answer(
        query=query,
        hits=tuple(hits),
        coverage=_coverage(found),
        why=_why(found),
        generation=plan.generation,
        weights=found.gathered.weights,
        candidates=len(found.gathered.candidates.ids),
        plan=plan.as_json() if plan.explain else None,
        rounds=found.rounds,
        offset=plan.offset,
    )


def compose_page(query: str, frozen: Frozen, plan: QueryPlan, hits: Sequence[Hit], gaps: tuple[int, ...]) -> Answer:
    """The answer of a page of a cursor: coverage and weights are those of the search that was frozen."""
    return Answer(
        query=query,
        hits=tuple(hits),
        coverage=frozen.coverage,
        why={signal: _FROZEN_WHY for signal, each in frozen.coverage.items() if each is not Coverage.OK},
        generation=frozen.generation,
        weights=frozen.weights,
        candidates=frozen.candidates,
        plan=plan.as_json() if plan.explain else None,
        rounds=0,
        offset=frozen.next,
        gaps=gaps,
    )


def _within(places: Sequence[Place], most_rows: int) -> Sequence[Place]:
    rows = accumulate(1 + len(place.others) + len(place.copies) for place in places)
    return places[: sum(total <= most_rows for total in rows)]


def _coverage(found: Found) -> dict[Signal, Coverage]:
    missed = found.gathered.missed
    return {leg.signal: missed[leg.signal].coverage if leg.signal in missed else Coverage.OK for leg in found.plan.legs}


def _why(found: Found) -> dict[Signal, str]:
    stores = {leg.signal: leg.store for leg in found.plan.legs}
    return {signal: f"{stores[signal]}: {each.why}" for signal, each in found.gathered.missed.items()}


def _scores(found: Found, places: Sequence[Place]) -> Mapping[str, Signals]:
    ids = [payload.id for place in places for payload in (place.payload, *(other for other, _ in place.others))]
    return signal_scores(found.gathered.candidates, found.gathered.weights, ids, found.plan.fusion)


def _hit(place: Place, scores: Mapping[str, Signals]) -> Hit:
    payload = place.payload
    return Hit(
        id=payload.id,
        doc_id=payload.doc_id,
        ordinal=payload.ordinal,
        title=payload.title,
        context=payload.context,
        text=payload.text,
        language=payload.language,
        score=place.score,
        signals=scores[payload.id],
        span=payload.span,
        metadata=payload.metadata,
        further_chunks=place.further_chunks,
        chunks=tuple(_hit_chunk(other, score, scores[other.id]) for other, score in place.others),
        same_text=tuple(copy.doc_id for copy in place.copies),
    )


def _hit_chunk(payload: Payload, score: float, signals: Signals) -> HitChunk:
    return HitChunk(payload.id, payload.ordinal, payload.context, payload.text, payload.span, score, signals)


def _place(document: FrozenDocument, payloads: Mapping[str, Payload]) -> Place:
    return Place(
        payload=payloads[document.best.id],
        score=document.best.score,
        further_chunks=document.further_chunks,
        others=tuple((payloads[other.id], other.score) for other in document.others if other.id in payloads),
        copies=tuple(payloads[copy] for copy in document.copies if copy in payloads),
    )


def _frozen_document(place: Place, scores: Mapping[str, Signals]) -> FrozenDocument:
    return FrozenDocument(
        best=_frozen_chunk(place.payload.id, place.score, scores),
        others=tuple(_frozen_chunk(other.id, score, scores) for other, score in place.others),
        copies=tuple(copy.id for copy in place.copies),
        further_chunks=place.further_chunks,
    )


def _frozen_chunk(chunk_id: str, score: float, scores: Mapping[str, Signals]) -> FrozenChunk:
    parts = tuple(FrozenScore(part.raw, part.rank, part.origin) for part in scores[chunk_id].values())
    return FrozenChunk(chunk_id, score, parts)


def _thawed_scores(chunk: FrozenChunk, weights: Mapping[Signal, float], fusion: Fusion) -> Signals:
    scores: dict[Signal, SignalScore] = {}
    for (signal, weight), part in zip(weights.items(), chunk.signals, strict=True):
        added = contribution(fusion, signal, weight, part.raw, part.rank)
        scores[signal] = SignalScore(part.raw, part.rank, weight, added, Origin(part.origin))
    return scores
