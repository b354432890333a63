"""Where sentences begin, in many languages, by rules of a kept library; and where a character may be cut.

`sentencex` (Wikimedia, MIT) knows the full stops, quotes and abbreviations of some 300 languages, needs no model and
counts code points. `regex` knows Unicode's grapheme clusters.
"""

from __future__ import annotations

from collections.abc import Iterator

# Sentences are looked for in windows, so that a text of any size costs bounded memory.
_WINDOW = 1 << 16
_AROUND = 64


def sentence_starts(text: str, language: str) -> list[int]:
    """Places where a sentence begins, ascending, 0 left out. `language` is a tag; an unknown one gets common rules."""
    from sentencex import get_sentence_boundaries

    primary = language.partition("-")[0].lower() or "en"
    starts: list[int] = []
    begin = 0
    while begin < len(text):
        window = text[begin : begin + _WINDOW]
        found = [begin + sentence["start_index"] for sentence in get_sentence_boundaries(primary, window)[1:]]
        starts.extend(found)
        if begin + _WINDOW >= len(text):
            break
        # The last sentence of a window may be cut off: the next window begins with it.
        begin = found[-1] if found else begin + _WINDOW
    return starts


def windows(text: str, size: int) -> Iterator[tuple[int, str]]:
    """The text in pieces of at most `size` code points, each ending after white space where there is some."""
    begin = 0
    while len(text) - begin > size:
        last = max(text.rfind(" ", begin + 1, begin + size), text.rfind("\n", begin + 1, begin + size))
        end = last + 1 if last > begin else grapheme_floor(text, begin + size)
        end = end if end > begin else begin + size
        yield begin, text[begin:end]
        begin = end
    yield begin, text[begin:]


def grapheme_floor(text: str, place: int) -> int:
    """The nearest place at or before `place` that does not cut a character as people see it (an emoji, an accent).

    A cluster of more than 64 code points is cut where asked: it is no character that anyone reads.
    """
    if _is_plain(text[place - 1 : place + 1]):
        return place
    return max((boundary for boundary in _boundaries(text, place) if boundary <= place), default=place)


def grapheme_ceiling(text: str, place: int) -> int:
    """As `grapheme_floor`, at or after `place`."""
    return min((boundary for boundary in _boundaries(text, place) if boundary >= place), default=place)


def _is_plain(pair: str) -> bool:
    """Whether no two of these characters ever belong together: letters before the first accents, and ideographs."""
    return all(char < "\u0300" or "\u3400" <= char <= "\u9fff" for char in pair)


def _boundaries(text: str, place: int) -> list[int]:
    import regex

    begin = max(0, place - _AROUND)
    window = text[begin : place + _AROUND]
    ends = [found.end() for found in regex.finditer(r"\X", window)]
    # The end of the window is no boundary, unless it is that of the text.
    return [begin + end for end in ends if end < len(window) or begin + end == len(text)]
