"""The part of a text that shows why it was found: the region with most of the query's words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
# Scripts written without spaces: a run of letters is no word there, so pairs of letters stand for words.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]"
)
# Bounds on the work for one hit, whatever was asked and found.
_MAX_TERMS, _MAX_SPANS = 64, 200
# A word is more telling than a syllable; in prose "of" and "in" match everywhere.
_SHORT = 3


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of a text. `marks` are spans in `text` that match words of the query; the flags say where text was cut."""

    text: str
    marks: tuple[tuple[int, int], ...]
    cut_before: bool
    cut_after: bool


def snippet(text: str, query: str, width: int) -> Snippet:
    """At most `width` code points of `text`, on one line, around the densest matches; without any, its beginning."""
    from m3core.terminal import plain

    line = re.sub(r" {2,}", " ", plain(text)).strip()
    spans = matches(line, query)
    start = _best_start(line, spans, width)
    end = min(len(line), start + width)
    if end < len(line):
        end = _word_edge(line, start, end)
    marks = tuple((max(a, start) - start, min(b, end) - start) for a, b in spans if b > start and a < end)
    return Snippet(line[start:end].rstrip(), marks, start > 0, end < len(line))


def matches(text: str, query: str) -> list[tuple[int, int]]:
    """Spans of `text` (ascending, apart) that hold a word of the query, whatever its case."""
    folded = _fold(text)
    found: list[tuple[int, int]] = []
    for term in query_terms(query):
        pattern = re.escape(term) if UNSPACED.search(term) else rf"(?<!\w){re.escape(term)}"
        found += [match.span() for match in re.finditer(pattern, folded)]
    return _merge(found)[:_MAX_SPANS]


def query_terms(query: str) -> list[str]:
    """Words of the query, folded, without the short ones as long as there are others; letter pairs where needed."""
    words = list(dict.fromkeys(_WORD.findall(_fold(query))))
    spaced = [word for word in words if not UNSPACED.search(word)]
    pairs = [word[at : at + 2] for word in words if UNSPACED.search(word) for at in range(max(1, len(word) - 1))]
    long = [word for word in spaced if len(word) > _SHORT]
    return [*(long or ([] if pairs else spaced)), *dict.fromkeys(pairs)][:_MAX_TERMS]


def _fold(text: str) -> str:
    """Lower case, code point by code point, so that positions stay."""
    return "".join(low if len(low := unicodedata.normalize("NFKC", c).lower()) == 1 else c for c in text)


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _best_start(line: str, spans: Sequence[tuple[int, int]], width: int) -> int:
    """Where the window begins: a little before the match from which most matched characters fit."""
    if len(line) <= width or not spans:
        return 0
    lead = width // 6
    covered = [sum(b - a for a, b in spans if start <= a and b <= start + width - lead) for start, _ in spans]
    first = spans[max(range(len(spans)), key=lambda place: (covered[place], -place))][0]
    wanted = min(max(0, first - lead), len(line) - width)
    if wanted <= 0:
        return 0
    space = line.find(" ", wanted, first)
    return space + 1 if space >= 0 else wanted


def _word_edge(line: str, start: int, end: int) -> int:
    space = line.rfind(" ", start + (end - start) * 2 // 3, end + 1)
    return space if space > start else end
