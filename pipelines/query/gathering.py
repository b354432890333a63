"""The rounds to the stores: candidates, then the missing scores. What did not answer is dropped for all hits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from connectors.protocol import Searcher
from m3core.errors import StoreError
from m3core.types import QueryVectors, Signal
from pipelines.query.answer import Coverage
from pipelines.query.asking import ASK_AGAIN, Answers, Deadline, Missed, ask_all
from pipelines.query.errors import DegradedError
from pipelines.query.fusing import Candidates, fused_order
from pipelines.query.plan import Leg, QueryPlan

Scores = Mapping[str, float]
Ask = Callable[[float], Awaitable[Scores]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Candidates with raw scores of the signals that answered, the normalised weights of these, and the misses."""

    candidates: Candidates
    weights: Mapping[Signal, float]
    missed: Mapping[Signal, Missed]
    seconds: Mapping[str, float]

    def exhausted(self, plan: QueryPlan) -> bool:
        """Whether no store that answered has more candidates than it brought."""
        found = self.candidates.retrieved
        return all(len(found[leg.signal]) < leg.candidates for leg in plan.legs if leg.signal in found)


@dataclass(frozen=True)
class Gatherer:
    """One request on its way through the stores. `start` is when, on the loop's clock, the deadlines began to run."""

    plan: QueryPlan
    query: QueryVectors
    searchers: Mapping[str, Searcher]
    start: float

    async def gather(self) -> Gathered:
        """Retrieve, complete and re-rank.

        Raises StoreError if nothing is left to rank by, DegradedError as soon as a required signal is lost.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        candidates, missed = await self._retrieve()
        self._check_required(missed)
        retrieved = clock()
        candidates, late = await self._complete(candidates, missed)
        missed = {**missed, **late}
        self._check_required(missed)
        weights = self._weights(missed)
        return Gathered(
            candidates, weights, missed, {"candidates": retrieved - began, "completion": clock() - retrieved}
        )

    async def _retrieve(self) -> tuple[Candidates, Mapping[Signal, Missed]]:
        sources = [leg for leg in self.plan.legs if leg.candidates]
        asks = {leg.signal: partial(self._search, leg) for leg in sources}
        answers = _finite(await ask_all(asks, Deadline.after(self.start, self.plan.deadlines.candidates)))
        if not answers.told:
            raise StoreError(f"no store brought candidates: {self._reasons(answers.missed)}", ASK_AGAIN)
        return Candidates(answers.told), answers.missed

    async def _complete(
        self, candidates: Candidates, missed: Mapping[Signal, Missed]
    ) -> tuple[Candidates, Mapping[Signal, Missed]]:
        """Every missing score by id. Multi-vectors go along in the same round unless the cap has to choose first."""
        wanted = [leg for leg in self.plan.legs if leg.weight > 0 and leg.signal not in missed]
        first = [leg for leg in wanted if leg.candidates or len(candidates.ids) <= self.plan.rerank_cap]
        candidates, late = await self._score({leg: candidates.missing(leg.signal) for leg in first}, candidates)
        second = [leg for leg in wanted if leg not in first]
        if second and candidates.ids:
            best = self._best(candidates, {**missed, **late})
            candidates, later = await self._score(dict.fromkeys(second, best), candidates)
            late = {**late, **later}
        return candidates, late

    async def _score(
        self, ids: Mapping[Leg, list[str]], candidates: Candidates
    ) -> tuple[Candidates, Mapping[Signal, Missed]]:
        asks: dict[Signal, Ask] = {
            leg.signal: partial(self._score_by_id, leg, each) for leg, each in ids.items() if each
        }
        answers = _finite(await ask_all(asks, Deadline.after(self.start, self.plan.deadlines.scores)))
        return candidates.with_completed(answers.told).without(answers.missed.keys()), answers.missed

    def _best(self, candidates: Candidates, missed: Mapping[Signal, Missed]) -> list[str]:
        """The candidates that may take part in re-ranking: the best by what is known of them."""
        known = {leg.signal: leg.weight for leg in self.plan.legs if leg.candidates and leg.signal not in missed}
        # Where only multi-vectors count, their sources weigh 0 and are taken as equals.
        weights = known if any(known.values()) else dict.fromkeys(known, 1.0)
        return [each for each, _ in fused_order(candidates, weights, self.plan.fusion)[: self.plan.rerank_cap]]

    def _weights(self, missed: Mapping[Signal, Missed]) -> dict[Signal, float]:
        left = [signal for signal in self.plan.weighted if signal not in missed]
        if not left:
            raise StoreError(f"no signal is left to rank by: {self._reasons(missed)}", ASK_AGAIN)
        return self.plan.weights.normalised(left)

    def _check_required(self, missed: Mapping[Signal, Missed]) -> None:
        lost = {signal: missed[signal] for signal in self.plan.require if signal in missed}
        if lost:
            raise DegradedError(f"a required signal did not answer: {self._reasons(lost)}", ASK_AGAIN)

    def _reasons(self, missed: Mapping[Signal, Missed]) -> str:
        stores = {leg.signal: leg.store for leg in self.plan.legs}
        return "; ".join(f"{signal} from {stores[signal]}: {each.why}" for signal, each in sorted(missed.items()))

    async def _search(self, leg: Leg, timeout: float) -> Scores:
        found = await self.searchers[leg.store].search(leg.signal, self.query, self.plan.where, leg.candidates, timeout)
        return {each.id: each.score for each in found}

    async def _score_by_id(self, leg: Leg, ids: list[str], timeout: float) -> Scores:
        return await self.searchers[leg.store].score(leg.signal, self.query, ids, self.plan.where, timeout)


def _finite(answers: Answers[Signal, Scores]) -> Answers[Signal, Scores]:
    """A store whose scores are not numbers did not answer: one NaN would make the order depend on chance."""
    broken = {signal for signal, scores in answers.told.items() if not _all_finite(scores.values())}
    return Answers(
        {signal: scores for signal, scores in answers.told.items() if signal not in broken},
        {**answers.missed, **dict.fromkeys(broken, Missed(Coverage.FAILED, "a score is not a finite number"))},
    )


def _all_finite(scores: Iterable[float]) -> bool:
    return all(map(math.isfinite, scores))
