"""The ordered candidates -> the page: every hit checked against the text store, one per document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from connectors.filters.evaluate import matches
from connectors.filters.identity import identity_filter
from connectors.protocol import Payload, Searcher
from m3core.errors import StoreError
from m3core.types import Identity
from pipelines.query.asking import ASK_AGAIN, Deadline, ask_all
from pipelines.query.plan import QueryPlan

# Candidates checked per request to the text store: one request fills the usual page, and few texts travel in vain.
CHECK_BATCH = 64


@dataclass(frozen=True, slots=True)
class Place:
    """The best chunk of one document and how many more of its chunks were among the candidates checked so far."""

    payload: Payload
    score: float
    further_chunks: int


async def fill_page(
    order: Sequence[tuple[str, float]], plan: QueryPlan, identity: Identity, texts: Searcher, deadline: Deadline
) -> list[Place]:
    """The best `plan.limit` documents, in order.

    A candidate whose row is not in the text store, or does not pass the filter there, is left out: a store may lag.
    Raises StoreError if the text store does not answer: a hit that could not be checked is not shown.
    """
    # The store applied this filter too; who may see a row is not left to one line of defence.
    allowed = identity_filter(identity)
    chunks: dict[str, list[tuple[Payload, float]]] = {}
    for first in range(0, len(order), CHECK_BATCH):
        batch = order[first : first + CHECK_BATCH]
        payloads = await _fetch([each for each, _ in batch], plan, texts, deadline)
        for each, score in batch:
            payload = payloads.get(each)
            if payload is not None and matches(allowed, payload):
                chunks.setdefault(payload.doc_id, []).append((payload, score))
        if len(chunks) >= plan.limit:
            break
    best = list(chunks.values())[: plan.limit]
    return [Place(found[0][0], found[0][1], len(found) - 1) for found in best]


async def _fetch(ids: list[str], plan: QueryPlan, texts: Searcher, deadline: Deadline) -> dict[str, Payload]:
    ask = partial(_fetch_within, texts, ids, plan)
    answers = await ask_all({plan.text_store: ask}, deadline)
    for store, missed in answers.missed.items():
        raise StoreError(
            f"{store}: the hits could not be checked and are not shown: {missed.why}",
            ASK_AGAIN,
        )
    return dict(answers.told[plan.text_store])


async def _fetch_within(texts: Searcher, ids: list[str], plan: QueryPlan, timeout: float) -> dict[str, Payload]:
    return await texts.fetch(ids, plan.where, timeout)
