"""Exact phrases in quotes: what the query asks for word by word, and whether a text has it.

A phrase is compared as it is written, apart from case, width (NFKC) and white space. It must not begin or end within a
word; in scripts without spaces between words it may. A phrase that two chunks share between them is not found.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pipelines.query.snippet import UNSPACED

# Straight quotes, and the curly ones that keyboards put in their place. Not « » and 「 」, which frame titles in prose.
_QUOTES = '"\u201c\u201d\u201e\u201f'
_QUOTED = re.compile(f"[{_QUOTES}]([^{_QUOTES}]*)[{_QUOTES}]")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Phrased:
    """The text to encode, its quotes taken off, and the phrases in the order in which they stand."""

    text: str
    phrases: tuple[str, ...]


def split_phrases(query: str) -> Phrased:
    """What stands in quotes is a phrase. A lone quote, and quotes around nothing or the marks of no word, are text."""
    phrases: list[str] = []

    def bare(found: re.Match[str]) -> str:
        phrase = _SPACES.sub(" ", found[1]).strip()
        if not any(character.isalnum() for character in phrase):
            return found[0]
        phrases.append(phrase)
        return found[1]

    text = _QUOTED.sub(bare, query)
    return Phrased(text, tuple(dict.fromkeys(phrases)))


def folded(text: str) -> str:
    """The form in which phrases and texts are compared."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


def has_phrase(folded_text: str, folded_phrase: str) -> bool:
    """Whether the phrase stands in the text, both `folded`."""
    start = folded_text.find(folded_phrase)
    while start >= 0:
        end = start + len(folded_phrase)
        if _apart(folded_text, start) and _apart(folded_text, end):
            return True
        start = folded_text.find(folded_phrase, start + 1)
    return False


def _apart(text: str, place: int) -> bool:
    """Whether no word of a spaced script goes on across `place`."""
    if not 0 < place < len(text):
        return True
    before, after = text[place - 1], text[place]
    if UNSPACED.match(before) or UNSPACED.match(after):
        # A mark belongs to the letter before it in every script.
        return not _is_mark(after)
    return not (_in_word(before) and _in_word(after))


def _in_word(character: str) -> bool:
    return character.isalnum() or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
