"""Rows to train on, as token ids: each text once, cut at its limit, and what was cut counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from m3core.errors import TrainingError
from m3core.tokenize import TextTokenizer
from m3core.train.folding import folded

# The numbers of a row's query, right and wrong passages.
_Draft = tuple[int, tuple[int, ...], tuple[int, ...]]
ONE_NEGATIVE = "only_1neg"
# Types of FlagEmbedding's rows whose passages are questions' equals, so they get the query's prefix.
SYMMETRIC = frozenset({"symmetric_sts", "symmetric_clustering"})
ROW_TYPES = ("normal", "retrieval", "symmetric_class", ONE_NEGATIVE, *sorted(SYMMETRIC))


@dataclass(frozen=True, slots=True)
class Row:
    """One question with right and wrong passages; scores are a teacher's, one per passage, or empty.

    `prompt` stands for the model's query prefix if given. `place` is `file:line`.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()
    prompt: str | None = None
    type: str = ROW_TYPES[0]
    place: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A row with its texts by number. `right` are all passages that answer its question in any row, however spaced."""

    query: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    right: frozenset[int]
    row: Row


@dataclass(frozen=True)
class Limits:
    """Most tokens of a query and of a passage, prefix and specials included; `drop_long` leaves longer rows out."""

    query: int
    passage: int
    drop_long: bool = False


@dataclass(frozen=True)
class Prefixes:
    """What the model puts before a query and a passage."""

    query: str
    passage: str


@dataclass(frozen=True)
class Examples:
    """Examples and the token ids of their texts. `cut` and `dropped` are places of rows over the limits: used with
    their texts cut, or left out.
    """

    examples: Sequence[Example]
    token_ids: Sequence[Tensor]
    cut: Sequence[str]
    dropped: Sequence[str]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.token_ids]


def prepare(rows: Sequence[Row], tokenizer: TextTokenizer, prefixes: Prefixes, limits: Limits) -> Examples:
    """Tokenize rows. Raises TrainingError if none is left."""
    pool = _Pool()
    drafts = [_draft(row, prefixes, pool) for row in rows]
    token_ids, truncated = pool.encode(tokenizer, limits)
    examples: list[Example] = []
    cut: list[str] = []
    dropped: list[str] = []
    right = _right(rows, drafts)
    for row, (query, positives, negatives) in zip(rows, drafts, strict=True):
        over = any(truncated[text] for text in (query, *positives, *negatives))
        if over:
            (dropped if limits.drop_long else cut).append(row.place)
        if not (over and limits.drop_long):
            examples.append(Example(query, positives, negatives, frozenset(right[query]), row))
    if not examples:
        raise TrainingError(
            f"all {len(rows):,} rows have a text over {limits.query:,} tokens (query) or {limits.passage:,} (passage)",
            "raise the limits, or let long texts be cut",
        )
    return Examples(examples, token_ids, cut, dropped)


def _right(rows: Sequence[Row], drafts: Sequence[_Draft]) -> dict[int, set[int]]:
    """By question the texts that answer it: the positives of its rows, and what differs from one in spaces only."""
    same: dict[str, set[int]] = defaultdict(set)
    for row, (_, positives, negatives) in zip(rows, drafts, strict=True):
        for text, number in zip((*row.positives, *row.negatives), (*positives, *negatives), strict=True):
            same[folded(text)].add(number)
    right: dict[int, set[int]] = defaultdict(set)
    for row, (query, _, _) in zip(rows, drafts, strict=True):
        for text in row.positives:
            right[query] |= same[folded(text)]
    return right


class _Pool:
    """Distinct texts with their prefixes; a query and a passage with the same words are two."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, bool], int] = {}

    def place(self, prefix: str, text: str, *, query: bool) -> int:
        return self._places.setdefault((prefix, text, query), len(self._places))

    def encode(self, tokenizer: TextTokenizer, limits: Limits) -> tuple[list[Tensor], list[bool]]:
        """Token ids of each text, and whether it was cut."""
        ids: list[Tensor] = [torch.empty(0)] * len(self._places)
        cut = [False] * len(self._places)
        groups: dict[tuple[str, bool], list[tuple[int, str]]] = defaultdict(list)
        for (prefix, text, query), place in self._places.items():
            groups[prefix, query].append((place, text))
        for (prefix, query), members in groups.items():
            limit = limits.query if query else limits.passage
            encoded, over = tokenizer.encode([text for _, text in members], prefix, limit)
            packed = torch.tensor([token for row in encoded for token in row], dtype=torch.int32)
            # One tensor for all: a million small ones would take ten times the memory.
            ends = list(accumulate(len(row) for row in encoded))
            for (place, _), start, end, long in zip(members, [0, *ends], ends, over, strict=False):
                ids[place], cut[place] = packed[start:end], long
        return ids, cut


def _draft(row: Row, prefixes: Prefixes, pool: _Pool) -> _Draft:
    before = prefixes.query if row.prompt is None else row.prompt
    other = before if row.type in SYMMETRIC else prefixes.passage
    positives, negatives = (
        tuple(pool.place(other, text, query=False) for text in texts) for texts in (row.positives, row.negatives)
    )
    return pool.place(before, row.query, query=True), positives, negatives
