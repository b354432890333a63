"""Training pairs: read, bounded per passage, sampled so that small languages count."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# tquad states no licence; the terms of covid-faq's pages were not checked.
UNCLEAR_SOURCES = frozenset({"tquad", "covid-faq"})
QUESTIONS_PER_PASSAGE = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and its passage: an answer, or a translation into English. `language` is the query's."""

    query: str
    positive: str
    source: str
    language: str
    translation: bool = False

    @property
    def group(self) -> str:
        """Source and language; a batch does not mix them."""
        return f"{self.source}/{self.language}"


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a Parquet file with query, positive, language, source and kind, without sources of unclear terms."""
    import pyarrow.parquet as pq

    columns = pq.read_table(path, columns=["query", "positive", "language", "source", "kind"]).to_pydict()
    return [
        Pair(query, positive, source, language, kind == "translation")
        for query, positive, language, source, kind in zip(*columns.values(), strict=True)
        if source not in UNCLEAR_SOURCES
    ]


def bounded_per_passage(pairs: Sequence[Pair], rng: np.random.Generator) -> list[Pair]:
    """At most QUESTIONS_PER_PASSAGE of a passage's pairs, drawn at random."""
    seen: Counter[str] = Counter()
    kept = []
    for index in rng.permutation(len(pairs)).tolist():
        pair = pairs[index]
        seen[pair.positive] += 1
        if seen[pair.positive] <= QUESTIONS_PER_PASSAGE:
            kept.append(pair)
    return kept


def sample_languages(pairs: Sequence[Pair], wanted: int, exponent: float, rng: np.random.Generator) -> list[Pair]:
    """Draw `wanted` pairs (or all); a language with n pairs is drawn in proportion to n ** `exponent`."""
    sizes = Counter(pair.language for pair in pairs)
    weights = np.array([sizes[pair.language] ** (exponent - 1.0) for pair in pairs])
    chosen = rng.choice(len(pairs), size=min(wanted, len(pairs)), replace=False, p=weights / weights.sum())
    return [pairs[index] for index in chosen.tolist()]


def file_sha256(path: Path) -> str:
    """sha256 of a file, for the record beside the trained heads."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
