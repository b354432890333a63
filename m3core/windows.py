"""Windows of a stream: what is read, tokenized and encoded at once, bounded in texts, in characters and in tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

WINDOW_TEXTS = 512
# As much as the lake keeps in one file. The multi-vectors of a window of BGE-M3 then take 256 MiB, and as much again
# while its batches are gathered.
WINDOW_TOKENS = 65_536
# A window is read before it is tokenized: what a token takes in most languages, and more than it takes in the others.
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Tokens:
    """Token ids of some texts, at most the limit of each, and which were cut."""

    ids: list[list[int]]
    truncated: list[bool]

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self.ids]

    def cut(self, most: int) -> Iterator[Tokens]:
        """Consecutive parts of at most `most` tokens; a text with more is a part of its own."""
        start = total = 0
        for place, length in enumerate(self.lengths):
            if place > start and total + length > most:
                yield self._part(start, place)
                start, total = place, 0
            total += length
        if self.ids:
            yield self._part(start, len(self.ids))

    def _part(self, start: int, stop: int) -> Tokens:
        return Tokens(self.ids[start:stop], self.truncated[start:stop])


def read_windows(texts: Iterable[str], most_texts: int, most_tokens: int) -> Iterator[list[str]]:
    """Consecutive texts, read one by one until there are `most_texts`, or characters for `most_tokens`."""
    window: list[str] = []
    characters = 0
    for text in texts:
        window.append(text)
        characters += len(text) if isinstance(text, str) else 0  # what is no text is told when it is tokenized
        if len(window) >= most_texts or characters >= _CHARACTERS_PER_TOKEN * most_tokens:
            yield window
            window, characters = [], 0
    if window:
        yield window
