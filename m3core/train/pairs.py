"""Training pairs: read, bounded per passage, sampled so that small languages count, cut into batches of one source."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# tquad states no licence; the terms of covid-faq's pages were not checked.
UNCLEAR_SOURCES = frozenset({"tquad", "covid-faq"})
QUESTIONS_PER_PASSAGE = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and its passage: an answer, or a translation. A batch may not mix `group`s (source and language)."""

    query: str
    positive: str
    group: str
    translation: bool = False


@dataclass(frozen=True)
class SamplePlan:
    """How many pairs to draw and how: question share, exponent of the language weights, seed."""

    pairs: int = 12_000
    question_share: float = 0.75
    exponent: float = 0.5
    seed: int = 0


def read_pairs(path: Path, plan: SamplePlan) -> list[Pair]:
    """Sample pairs from a Parquet file with query, positive, language, source and kind."""
    import pyarrow.parquet as pq

    columns = pq.read_table(path, columns=["query", "positive", "language", "source", "kind"]).to_pydict()
    rows = [
        (Pair(query, positive, f"{source}/{language}", kind == "translation"), language)
        for query, positive, language, source, kind in zip(*columns.values(), strict=True)
        if source not in UNCLEAR_SOURCES
    ]
    rng = np.random.default_rng(plan.seed)
    questions = [row for row in rows if not row[0].translation]
    translations = [row for row in rows if row[0].translation]
    wanted = round(plan.pairs * plan.question_share)
    return [
        *_sample(_bounded_per_passage(questions, rng), wanted, plan.exponent, rng),
        *_sample(translations, plan.pairs - wanted, plan.exponent, rng),
    ]


def _bounded_per_passage(rows: Sequence[tuple[Pair, str]], rng: np.random.Generator) -> list[tuple[Pair, str]]:
    seen: Counter[str] = Counter()
    kept = []
    for index in rng.permutation(len(rows)).tolist():
        pair, language = rows[index]
        seen[pair.positive] += 1
        if seen[pair.positive] <= QUESTIONS_PER_PASSAGE:
            kept.append((pair, language))
    return kept


def _sample(rows: Sequence[tuple[Pair, str]], wanted: int, exponent: float, rng: np.random.Generator) -> list[Pair]:
    # A language with n pairs is drawn in proportion to n ** exponent.
    sizes = Counter(language for _, language in rows)
    weights = np.array([sizes[language] ** (exponent - 1.0) for _, language in rows])
    wanted = min(wanted, len(rows))
    chosen = rng.choice(len(rows), size=wanted, replace=False, p=weights / weights.sum())
    return [rows[index][0] for index in chosen.tolist()]


def batches(groups: Sequence[str], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """One epoch of index batches, each of one group as far as the group has pairs left; the rest fills last batches.

    Parallel texts of different locales would be false negatives of one another, so they do not meet.
    """
    order = rng.permutation(len(groups)).tolist()
    by_group: dict[str, list[int]] = {}
    for index in order:
        by_group.setdefault(groups[index], []).append(index)
    whole = [part[i : i + size] for part in by_group.values() for i in range(0, len(part) - size + 1, size)]
    rest = [index for part in by_group.values() for index in part[len(part) // size * size :]]
    whole += [rest[i : i + size] for i in range(0, len(rest) - size + 1, size)]
    for place in rng.permutation(len(whole)).tolist():
        yield whole[place]


def file_sha256(path: Path) -> str:
    """sha256 of a file, for the record beside the trained heads."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
