"""Stores and texts until the page is full: as deep as the plan says, and deeper where grouping leaves too little."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from connectors.protocol import Searcher
from m3core.errors import StoreError
from m3core.types import Identity, QueryVectors
from pipelines.query.asking import Deadline
from pipelines.query.fusing import fused_order
from pipelines.query.gathering import Gathered, Gatherer
from pipelines.query.page import Place, fill_page
from pipelines.query.plan import QueryPlan


@dataclass(frozen=True, slots=True)
class Found:
    """What one search brought. `order` holds the ranked candidates (id, score) that reach `min_score`.

    `rounds` counts how often the stores were asked for candidates, each time twice as deep. `seconds` is the time in
    the stores by stage, all rounds together.
    """

    plan: QueryPlan
    gathered: Gathered
    order: Sequence[tuple[str, float]]
    places: Sequence[Place]
    rounds: int
    seconds: Mapping[str, float]

    @property
    def too_few(self) -> bool:
        """Whether grouping or phrases took so much that the page is not full, and stores have more."""
        return (
            len(self.places) < self.plan.wanted <= len(self.order)
            and len(self.order) == len(self.gathered.candidates.ids)
            and not self.gathered.exhausted(self.plan)
        )


@dataclass(frozen=True, slots=True)
class Finder:
    """One request's way from vectors to places. `start` is when, on the loop's clock, the deadlines began to run."""

    identity: Identity
    vectors: QueryVectors
    searchers: Mapping[str, Searcher]
    start: float

    async def find(self, plan: QueryPlan) -> Found:
        """The documents of the page, all of them for a cursor.

        Raises StoreError (the text store, or no signal, answered) and DegradedError (a required signal did not).
        """
        found = await self._at_depth(plan, 1)
        while found.too_few and (deeper := found.plan.deeper()) is not None:
            try:
                next_found = await self._at_depth(deeper, found.rounds + 1)
            except StoreError:
                # What is there is a whole answer: it is not given up because there was no time for a deeper one.
                break
            if not next_found.gathered.missed.keys() <= found.gathered.missed.keys():
                break
            found = _joined(found, next_found)
        return found

    async def _at_depth(self, plan: QueryPlan, rounds: int) -> Found:
        clock = asyncio.get_running_loop().time
        gathered = await Gatherer(plan, self.vectors, self.searchers, self.start).gather()
        began = clock()
        ranked = fused_order(gathered.candidates, gathered.weights, plan.fusion)
        order = [(each, score) for each, score in ranked if plan.min_score is None or score >= plan.min_score]
        fused = clock()
        last = Deadline.after(self.start, plan.deadlines.texts)
        places = await fill_page(order, plan, self.identity, self.searchers[plan.text_store], last)
        seconds = {**gathered.seconds, "fusion": fused - began, "texts": clock() - fused}
        return Found(plan, gathered, order, places, rounds, seconds)


def _joined(first: Found, second: Found) -> Found:
    return replace(second, seconds={stage: first.seconds[stage] + spent for stage, spent in second.seconds.items()})
