"""Questions of the user, and how good a generation's answers must be before it goes live.

A file of JSON lines, a question each: `{"query": "who keeps the key", "relevant": ["a.md", "b.md"]}`; `relevant` may
also be an object, document -> degree (1 or more). The figures are means over the questions (`m3core/evaluate/
measures.py`), of the answers that a search in that very generation gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m3core.config.model import Config
from m3core.errors import M3Error, UsageError
from m3core.evaluate.measures import MEASURES, Judgements, measure, require
from m3core.nearest import did_you_mean
from m3core.types import Identity
from pipelines.operate.proving import Check
from pipelines.query.live import OneGeneration
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router, SyncRouter
from pipelines.state.collection import Generation

# As far as the measures look.
_DEPTH = 100
_NAME = "queries"


@dataclass(frozen=True)
class Question:
    """A query and how relevant documents are for it."""

    query: str
    relevant: Mapping[str, int]


def read_questions(path: Path) -> list[Question]:
    """The questions of a file. UsageError if a line is none, or there is no line."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {type(error).__name__}", "name a UTF-8 file of JSON lines") from None
    questions = [_question(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise UsageError(f"{path} has no questions", 'write lines like {"query": "...", "relevant": ["ID"]}')
    return questions


def parse_least(given: Sequence[str]) -> dict[str, float]:
    """`ndcg@10=0.60` by name. UsageError for another name, or no number from 0 to 1."""
    least: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in MEASURES:
            raise UsageError(f"--min {text[:40]!r}: no such figure", did_you_mean(name, MEASURES))
        try:
            least[name] = float(value)
        except ValueError:
            least[name] = -1.0
        if not 0 <= least[name] <= 1:
            raise UsageError(f"--min {text[:40]!r}: no number from 0 to 1", f"for example {name}=0.60")
    return least


def query_gate(
    config: Config, base: Path, questions: Sequence[Question], least: Mapping[str, float], identity: Identity
) -> Callable[[Generation], Check]:
    """A check of `promote`: every figure of `least` is reached. MissingExtraError without the extra `eval`."""
    require()

    def check(generation: Generation) -> Check:
        router = replace(Router.open(config, base), stores=OneGeneration(config, base, generation))
        try:
            with SyncRouter(router) as searching:
                return judge(questions, least, lambda query: _found(searching, query, identity))
        except M3Error as error:
            return Check(_NAME, False, f"they cannot be asked: {error.message}", error.remedy)

    return check


def judge(questions: Sequence[Question], least: Mapping[str, float], ask: Callable[[str], Sequence[str]]) -> Check:
    """The check's outcome; `ask` gives ids of documents, best first."""
    judgements: Judgements = {str(number): each.relevant for number, each in enumerate(questions)}
    run = [(str(number), _scored(ask(each.query))) for number, each in enumerate(questions)]
    values = measure(judgements, run)
    means = {name: float(values[name].mean()) for name in least}
    told = ", ".join(f"{name} {means[name]:.3f} (least {least[name]:g})" for name in least)
    failed = [name for name in least if means[name] < least[name]]
    remedy = "" if not failed else "compare both with m3 search; a lower --min accepts it"
    return Check(_NAME, not failed, f"{len(questions):,} asked: {told}", remedy)


def _found(router: SyncRouter, query: str, identity: Identity) -> list[str]:
    answer = router.search(SearchRequest(query, identity, limit=_DEPTH))
    return list(dict.fromkeys(hit.doc_id for hit in answer.hits))


def _scored(ids: Sequence[str]) -> dict[str, float]:
    """1 / rank, so that no tie is broken again."""
    return {doc_id: 1 / rank for rank, doc_id in enumerate(ids, start=1)}


def _question(line: str, place: str) -> Question:
    try:
        value = json.loads(line)
        query, relevant = value["query"], value["relevant"]
        degrees = {str(one): 1 for one in relevant} if isinstance(relevant, list) else dict(relevant)
        if not isinstance(query, str) or not query.strip() or not degrees:
            raise ValueError
        if not all(isinstance(degree, int) and degree >= 1 for degree in degrees.values()):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise UsageError(
            f"{place} is no question with its relevant documents", 'write {"query": "...", "relevant": ["ID"]}'
        ) from None
    return Question(query, degrees)
