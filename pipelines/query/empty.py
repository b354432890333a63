"""Why an answer has no hits: which condition of the filter is responsible. Counts only what the caller may see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from connectors.filters.canonical import format_filter
from connectors.filters.identity import with_identity
from connectors.filters.tree import And, Everything, Filter
from connectors.protocol import Searcher
from m3core.types import Identity
from pipelines.query.answer import ConditionCount, Emptiness
from pipelines.query.asking import Deadline, ask_all
from pipelines.query.finding import Found

# More conditions than these are counted together only: each costs a request.
MAX_CONDITIONS = 16
# The sentence names the conditions that cost most; the counts behind it name all.
MAX_BLAMED = 3
_UNKNOWN = "no hit; the text store did not say in time which condition is responsible"


@dataclass(frozen=True, slots=True)
class _Counts:
    """Rows in all, visible to the caller, and passing the whole filter; then per condition those without it."""

    rows: int
    visible: int
    passing: int
    without: tuple[ConditionCount, ...]


async def explain_empty(found: Found, identity: Identity, texts: Searcher, deadline: Deadline) -> Emptiness:
    """Count the rows that pass with each condition of the filter left out, and put the finding into one sentence."""
    plan = found.plan
    conditions = _conditions(plan.asked)
    separate = conditions if len(conditions) <= MAX_CONDITIONS else []
    wheres: dict[str, Filter] = {
        "rows": Everything(),
        "visible": with_identity(Everything(), identity),
        "passing": plan.where,
    }
    for place in range(len(separate)):
        rest = And(tuple(part for other, part in enumerate(separate) if other != place))
        wheres[f"without {place}"] = with_identity(rest, identity)
    answers = await ask_all({name: partial(_count, texts, where) for name, where in wheres.items()}, deadline)
    if answers.missed:
        return Emptiness(_UNKNOWN)
    told = answers.told
    without = tuple(ConditionCount(format_filter(part), told[f"without {n}"]) for n, part in enumerate(separate))
    counts = _Counts(told["rows"], told["visible"], told["passing"], without)
    return Emptiness(_reason(found, identity, counts), counts.visible, counts.passing, without)


def _reason(found: Found, identity: Identity, counts: _Counts) -> str:
    plan, candidates = found.plan, len(found.gathered.candidates.ids)
    if counts.rows == 0:
        return "the collection is empty: m3 ingest fills it"
    if counts.visible == 0:
        return f"no row is visible to {_shown(identity)}"
    if counts.passing == 0:
        return _blame(counts)
    if len(found.places):
        return f"there are {len(found.places)} documents; the page begins after {plan.offset}"
    if len(found.order) < candidates:
        return f"none of {candidates} candidates reaches the score {plan.min_score:g}"
    if plan.phrases and candidates:
        phrases = " and ".join(f'"{phrase}"' for phrase in plan.phrases)
        return f"none of the best {candidates} candidates has {phrases} in its text"
    if candidates:
        return (
            f"{candidates} candidates are no longer in the store that keeps the texts; m3 ingest brings them together"
        )
    among = "visible" if isinstance(plan.asked, Everything) else "passing the filter"
    return (
        f"of {counts.passing} {_rows(counts.passing)} {among} none matches the query in {' and '.join(plan.weighted)}"
    )


def _blame(counts: _Counts) -> str:
    """The conditions without which rows would pass, the costliest first."""
    without = counts.without
    if len(without) < 2:
        condition = without[0].condition if without else "the filter"
        return f"no row passes {condition}; without it {counts.visible} {_do(counts.visible)}"
    blamed = sorted((each for each in without if each.without), key=lambda each: -each.without)[:MAX_BLAMED]
    if not blamed:
        return f"no row passes the filter, also with any one of its {len(without)} conditions left out"
    parts = [f"without {each.condition} {each.without} {_do(each.without)}" for each in blamed]
    return f"no row passes the filter; {', '.join(parts)}"


def _conditions(asked: Filter) -> list[Filter]:
    """The parts that must all hold, nested conjunctions flattened."""
    match asked:
        case Everything():
            return []
        case And(parts=parts):
            return [condition for part in parts for condition in _conditions(part)]
        case _:
            return [asked]


async def _count(texts: Searcher, where: Filter, timeout: float) -> int:
    return await texts.count(where, timeout)


def _shown(identity: Identity) -> str:
    principals = ", ".join(identity.principals[:5]) + (", ..." if len(identity.principals) > 5 else "")
    return f"{identity.tenant}:{principals}" if principals else f"{identity.tenant} without any principal"


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


def _do(count: int) -> str:
    return "does" if count == 1 else "do"
