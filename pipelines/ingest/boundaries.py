"""Where a long text may be cut: between paragraphs, else sentences, lines, words, and last between tokens."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Protocol

import numpy as np

from m3core.types import Document
from pipelines.ingest.outline import Section
from pipelines.ingest.sentences import grapheme_ceiling, grapheme_floor, sentence_starts, windows

# The tokenizer sees long texts in windows: some tokenizers need more than linear time for one endless word.
_WINDOW = 1 << 14
# An endless word is cut into pieces of this share of the budget, so that packing can fill chunks evenly.
_PIECES = 8
_LINES = 2
# Code points at the beginning of an atom that decide whether a chunk begins there.
_HEAD = 32

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n(?:[^\S\n]*\n)*")
_LINE = re.compile(r"\n")
_WORD = re.compile(r"\s+")


class TokenOffsets(Protocol):
    """What chunking needs of a tokenizer (m3core's TextTokenizer has it). Specials and prefix are never counted."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Code-point span of each token."""


class TokenStarts:
    """Places where tokens of a stretch of text begin, ascending; counting a part of it is then a bisection.

    Counts of parts may differ by a token or two from what the tokenizer says of the part alone: chunks are verified.
    """

    def __init__(self, tokenizer: TokenOffsets, text: str, start: int, end: int) -> None:
        self.places: list[int] = []
        for begin, window in windows(text[start:end], _WINDOW):
            firsts = np.array([first for first, _ in tokenizer.offsets(window)], dtype=np.int64)
            self.places.extend((np.maximum.accumulate(firsts) + (start + begin)).tolist())

    def before(self, place: int) -> int:
        """Tokens that begin before `place`."""
        return bisect_left(self.places, place)

    def between(self, start: int, end: int) -> int:
        """Tokens that begin in `[start, end)`."""
        return self.before(end) - self.before(start)


class Atoms:
    """A section cut as finely as needed: no atom has more than `budget` tokens. Headings stay with what follows them.

    `starts` `[N + 1]` are the places of the N atoms and the end; `kinds` `[N]` say what begins there: 0 a paragraph,
    1 a sentence, 2 a line, 3 a word, 4 a piece of a word; `cumulative` `[N + 1]` counts the tokens before each.
    """

    def __init__(self, document: Document, section: Section, tokens: TokenStarts, budget: int) -> None:
        self._text, self._language, self._tokens, self._budget = document.text, document.language, tokens, budget
        self._body = section.body
        self.starts: list[int] = [section.start]
        self.kinds: list[int] = [0]
        self._finders: tuple[Callable[[int, int], Iterable[int]], ...] = (
            self._matches(_PARAGRAPH),
            self._sentences,
            self._matches(_LINE),
            self._matches(_WORD),
            self._pieces,
        )
        self._cut(section.start, section.end, 0)
        self.starts.append(section.end)
        self.cumulative: list[int] = [tokens.before(place) for place in self.starts]

    def digests(self) -> list[int]:
        """A 64-bit hash of how each atom's text begins, `[N]`: an edit further inside moves no boundary."""
        return [
            int.from_bytes(blake2b(self._text[start : min(end, start + _HEAD)].encode(), digest_size=8).digest())
            for start, end in pairwise(self.starts)
        ]

    def _cut(self, start: int, end: int, kind: int) -> None:
        found = self._finders[kind](start, end)
        if start < self._body and kind <= _LINES:
            found = (place for place in found if self._text[self._body : place].strip())
        edges = [start, *found, end]
        for first, last in pairwise(edges):
            if first != start:
                self.starts.append(first)
                self.kinds.append(kind)
            if kind + 1 < len(self._finders) and self._tokens.between(first, last) > self._budget:
                self._cut(first, last, kind + 1)

    def _matches(self, pattern: re.Pattern[str]) -> Callable[[int, int], Iterable[int]]:
        def found(start: int, end: int) -> Iterable[int]:
            return (match.end() for match in pattern.finditer(self._text, start, end) if start < match.end() < end)

        return found

    def _sentences(self, start: int, end: int) -> Iterable[int]:
        found = (start + place for place in sentence_starts(self._text[start:end], self._language))
        return (place for place in found if place < end)

    def _pieces(self, start: int, end: int) -> Iterable[int]:
        size = max(1, self._budget // _PIECES)
        while self._tokens.between(start, end) > size:
            wanted = self._tokens.places[self._tokens.before(start) + size]
            cut = grapheme_floor(self._text, wanted)
            if cut <= start:  # a character of more tokens than a piece is a piece of its own
                cut = grapheme_ceiling(self._text, wanted)
            if cut <= start or self._tokens.between(start, cut) > self._budget:
                cut = max(wanted, start + 1)
            if cut >= end:
                return
            yield cut
            start = cut
