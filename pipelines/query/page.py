"""The ordered candidates -> the page: every one checked against the text store, one hit per document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from connectors.filters.identity import is_visible
from connectors.protocol import Payload, Searcher
from m3core.errors import StoreError
from m3core.types import Identity, encoded_text
from pipelines.query.asking import ASK_AGAIN, Deadline, ask_all
from pipelines.query.phrases import folded, has_phrase
from pipelines.query.plan import QueryPlan

# Candidates checked per request to the text store: one request fills the usual page, and few texts travel in vain.
CHECK_BATCH = 64
# A cursor needs the documents of all candidates.
_CHECK_ALL = 1024
# Documents whose best chunk has the same text as a hit's, named in the hit; more are not shown either.
MAX_COPIES = 20


@dataclass(frozen=True, slots=True)
class Place:
    """One document's best chunk, and how many more of its chunks were among the candidates checked so far.

    `others` are the best of these, each text once; `copies` are chunks of other documents with this chunk's text.
    """

    payload: Payload
    score: float
    further_chunks: int
    others: tuple[tuple[Payload, float], ...] = ()
    copies: tuple[Payload, ...] = ()


async def fill_page(
    order: Sequence[tuple[str, float]], plan: QueryPlan, identity: Identity, texts: Searcher, deadline: Deadline
) -> list[Place]:
    """The best `plan.wanted` documents, in order; all of them for a cursor.

    A candidate whose row is not in the text store, or does not pass the filter there, is left out: a store may lag. So
    is one without the phrases of the query. Raises StoreError if the text store does not answer: a hit that could not
    be checked is not shown.
    """
    grouping = Grouping(plan)
    step = _CHECK_ALL if plan.paged else CHECK_BATCH
    for first in range(0, len(order), step):
        batch = order[first : first + step]
        payloads = await fetch_allowed([each for each, _ in batch], plan, identity, texts, deadline)
        for each, score in batch:
            if each in payloads:
                grouping.add(payloads[each], score)
        if len(grouping) >= plan.wanted and not plan.paged:
            break
    return grouping.places()


async def fetch_allowed(
    ids: Sequence[str], plan: QueryPlan, identity: Identity, texts: Searcher, deadline: Deadline
) -> dict[str, Payload]:
    """Those of the rows that pass the filter and are visible to the caller now. Raises StoreError: see `fill_page`."""
    answers = await ask_all({plan.text_store: partial(_fetch_within, texts, ids, plan)}, deadline)
    for store, missed in answers.missed.items():
        raise StoreError(
            f"{store}: the hits could not be checked and are not shown: {missed.why}",
            ASK_AGAIN,
        )
    # The store applied this filter too; who may see a row is not left to one line of defence.
    fetched = answers.told[plan.text_store]
    return {each: payload for each, payload in fetched.items() if is_visible(payload, identity)}


@dataclass
class _Document:
    """A document on its way to a place."""

    payload: Payload
    score: float
    further_chunks: int = 0
    others: list[tuple[Payload, float]] = field(default_factory=list)
    copies: list[Payload] = field(default_factory=list)


class Grouping:
    """Chunks, best first -> documents. With `plan.once` a document whose best chunk repeats a text is a copy."""

    def __init__(self, plan: QueryPlan) -> None:
        self._plan = plan
        self._phrases = [folded(phrase) for phrase in plan.phrases]
        self._documents: dict[str, _Document] = {}
        self._by_text: dict[str, _Document] = {}
        self._copies: set[str] = set()

    def add(self, payload: Payload, score: float) -> None:
        """The next chunk in the order; one without the phrases is left out."""
        text = encoded_text(payload.context, payload.text)
        if not self._has_phrases(text) or payload.doc_id in self._copies:
            return
        document = self._documents.get(payload.doc_id)
        if document is not None:
            document.further_chunks += 1
            if len(document.others) < self._plan.chunks - 1 and not _repeats(payload, document):
                document.others.append((payload, score))
        elif self._plan.once and text in self._by_text:
            self._copies.add(payload.doc_id)
            self._by_text[text].copies.append(payload)
        else:
            self._documents[payload.doc_id] = self._by_text[text] = _Document(payload, score)

    def places(self) -> list[Place]:
        """The documents so far, in order, as many as are wanted."""
        found: Iterable[_Document] = self._documents.values()
        if not self._plan.paged:
            found = list(found)[: self._plan.wanted]
        return [
            Place(each.payload, each.score, each.further_chunks, tuple(each.others), tuple(each.copies[:MAX_COPIES]))
            for each in found
        ]

    def _has_phrases(self, text: str) -> bool:
        if not self._phrases:
            return True
        compared = folded(text)
        return all(has_phrase(compared, phrase) for phrase in self._phrases)

    def __len__(self) -> int:
        return len(self._documents)


def _repeats(payload: Payload, document: _Document) -> bool:
    shown = [document.payload, *(other for other, _ in document.others)]
    return any((payload.context, payload.text) == (each.context, each.text) for each in shown)


async def _fetch_within(texts: Searcher, ids: Sequence[str], plan: QueryPlan, timeout: float) -> dict[str, Payload]:
    return await texts.fetch(ids, plan.where, timeout)
