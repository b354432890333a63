"""Texts that say the same in two languages, and batches of them in which the language is no help.

A retriever that was trained on one language at a time ranks texts of the question's own language first. A batch here
asks in one language for a passage in another, and holds every passage in the question's language too: all of these are
wrong answers but the row's own, which is left out of its row.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m3core.train.pairs import Pair

_SENTENCE = re.compile(r"[^.!?。！？؟।…]+[.!?。！？؟।…]+[\"'”’»）)]*\s*")
# A query is one sentence of its passage where the passage has several of at least so many characters.
_LEAST_SENTENCE = 20
HELD_OUT_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Version:
    """One language's version: what may be asked, and the passage."""

    query: str
    passage: str


@dataclass(frozen=True, slots=True)
class Bitext:
    """Rows of one source in two languages: `left[i]` and `right[i]` say the same."""

    name: str
    left: Sequence[Version]
    right: Sequence[Version]


@dataclass(frozen=True, slots=True)
class CrossingBatch:
    """Queries of one language, their passages in the other, and the same passages in the queries' language."""

    queries: Sequence[str]
    positives: Sequence[str]
    own_language: Sequence[str]


def held_out(english: str) -> bool:
    """Whether a text family is kept from training, by the hash of its English side: the same in every language."""
    digest = hashlib.sha256(english.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def translations(pairs: Iterable[Pair], rng: np.random.Generator) -> list[Bitext]:
    """Bitexts of translation pairs (query: the other language, positive: English), one per source and language."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.group].append(pair)
    return [
        Bitext(
            name,
            [Version(asked_sentence(pair.query, rng), pair.query) for pair in rows],
            [Version(asked_sentence(pair.positive, rng), pair.positive) for pair in rows],
        )
        for name, rows in sorted(groups.items())
    ]


def pivots(pairs: Iterable[Pair], wanted: int, least: int, rng: np.random.Generator) -> list[Bitext]:
    """Bitexts of two random languages that were translated from the same English, `wanted` rows or a few more.

    Two languages with under `least` texts in common are passed over; fewer rows come if no other pair is left.
    """
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for pair in pairs:
        versions[pair.language].setdefault(pair.positive, pair.query)
    languages = sorted(versions)
    couples = [(one, other) for i, one in enumerate(languages) for other in languages[i + 1 :]]
    found, rows = [], 0
    for place in rng.permutation(len(couples)).tolist():
        if rows >= wanted:
            break
        one, other = couples[place]
        common = sorted(versions[one].keys() & versions[other].keys())
        if len(common) >= least:
            sides = [[Version(asked_sentence(versions[side][text], rng), versions[side][text]) for text in common]
                     for side in (one, other)]  # fmt: skip
            found.append(Bitext(f"pivot/{one}-{other}", *sides))
            rows += len(common)
    return found


def parallel_questions(rows: Mapping[str, Sequence[Version]], names: str, rng: np.random.Generator) -> list[Bitext]:
    """Bitexts of pages that are translations of one another, question by question: each language with another one.

    `rows` are the questions by language, in the pages' order. Only languages with the most common number of questions
    take part: a page with another number was cut or shortened, and its order is no guide.
    """
    counts = [len(page) for page in rows.values()]
    usual = max(set(counts), key=counts.count)
    languages = sorted(language for language, page in rows.items() if len(page) == usual)
    if len(languages) < 2:
        return []
    partners = rng.permutation(languages).tolist()
    return [
        Bitext(f"{names}/{left}-{right}", rows[left], rows[right])
        for left, right in zip(partners, partners[1:] + partners[:1], strict=True)
    ]


def crossing_batches(bitext: Bitext, size: int, rng: np.random.Generator) -> list[CrossingBatch]:
    """One epoch of a bitext, each batch in a direction of its own."""
    order = rng.permutation(len(bitext.left))
    batches = []
    for start in range(0, len(order), size):
        places = order[start : start + size].tolist()
        if len(places) < min(size, 8):
            continue
        sides = (bitext.left, bitext.right) if rng.random() < 0.5 else (bitext.right, bitext.left)
        asked, answered = ([side[place] for place in places] for side in sides)
        batches.append(
            CrossingBatch(
                [version.query for version in asked],
                [version.passage for version in answered],
                [version.passage for version in asked],
            )
        )
    return batches


def asked_sentence(passage: str, rng: np.random.Generator) -> str:
    """One sentence of a passage, at random; the whole passage where it has but one."""
    sentences = [part.strip() for part in _SENTENCE.findall(passage) if len(part.strip()) >= _LEAST_SENTENCE]
    return str(rng.choice(sentences)) if len(sentences) > 1 else passage
