"""From bytes to text, and the headings in it. Nothing is guessed: what is no UTF-8 or marked UTF-16 is refused."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from m3core.errors import DocumentError

# Part of the collection fingerprint: raise it when the same bytes would give another text, title or heading.
PARSER_VERSION = "parser-1"

MAX_HEADING = 200  # code points of a heading that go into titles and contexts

_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_RULE = re.compile(r" {0,3}([-_*])[ \t]*(?:\1[ \t]*){2,}$")
_CODE = re.compile(r" {0,3}\t| {4}")
# What starts another block than a paragraph: quote, HTML, table, list item.
_NO_PARAGRAPH = re.compile(r" {0,3}(?:[><|]|[-+*](?:[ \t]|$)|\d{1,9}[.)](?:[ \t]|$))")
_FRONT_MATTER = re.compile(r"---[ \t]*\n[A-Za-z_][\w-]*[ \t]*:")
_FRONT_MATTER_END = re.compile(r"^(---|\.\.\.)[ \t]*$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_EMPHASIS = re.compile(r"\*\*|__|`+|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_ANCHOR = re.compile(r"\s*\{#[^{}]*\}$")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading line: `text[start:end]` is it whole (with its underline), `title` its words without markup."""

    start: int
    end: int
    level: int
    title: str


def decode_text(data: bytes) -> str:
    """The text of a file: UTF-8, with or without byte order mark, or UTF-16 with one. The mark is removed.

    Raises:
        DocumentError: a NUL (the file is binary) or bytes that are no text in that encoding, with their place.
    """
    encoding, mark = _encoding(data)
    if encoding == "utf-8":
        _refuse_nul(data.find(b"\0"), "byte")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"not {encoding.upper()} at byte {error.start + len(mark)}", "save the file as UTF-8"
        ) from None
    _refuse_nul(text.find("\0"), "code point")
    return text


def _encoding(data: bytes) -> tuple[str, bytes]:
    marks = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return encoding, mark
    return "utf-8", b""


def _refuse_nul(place: int, unit: str) -> None:
    if place >= 0:
        raise DocumentError(f"binary: a NUL at {unit} {place}", "only text and Markdown files are read")


def normalise_newlines(text: str) -> str:
    """LF for CRLF and for a lone CR. Spans count in the result, which is the text that is stored."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def markdown_headings(text: str) -> list[Heading]:
    """Headings of Markdown with LF line ends: `#` to `######`, and one line underlined with `=` or `-`.

    Code fences hold no headings; neither do indented code, quotes, lists and a YAML block at the top, which is text
    like any other. Empty headings do not count.
    """
    scan = _Scan()
    start = _after_front_matter(text)
    for begin, line in _lines(text, start):
        scan.line(begin, line)
    return scan.headings


def _lines(text: str, start: int) -> Iterator[tuple[int, str]]:
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield start, text[start:end]
        start = end + 1


def _after_front_matter(text: str) -> int:
    if not _FRONT_MATTER.match(text):
        return 0
    closing = _FRONT_MATTER_END.search(text, 4)
    return closing.end() if closing else 0


class _Scan:
    """State of one pass over the lines: in a fence, in a paragraph, in another block, or between blocks."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._fence = ""
        self._candidate: tuple[int, str] | None = None  # the only line so far of the paragraph we are in
        self._block = ""

    def line(self, start: int, line: str) -> None:
        if self._fence:
            closing = line.strip(" \t")
            if len(closing) >= len(self._fence) and not closing.strip(self._fence[0]) and not line.startswith("    "):
                self._fence = ""
            return
        if self._block == "paragraph" and (underline := _UNDERLINE.match(line)):
            if self._candidate:
                begin, words = self._candidate
                self._add(begin, start + len(line), 1 if underline.group(1)[0] == "=" else 2, words)
            self._end_block()
        elif fence := _FENCE.match(line):
            self._fence = fence.group(1)
            self._end_block()
        elif atx := _ATX.match(line):
            self._add(start, start + len(line), len(atx.group(1)), _without_closing(line[atx.end() :]))
            self._end_block()
        elif not line.strip() or _RULE.match(line) or (not self._block and _CODE.match(line)):
            self._end_block()
        else:
            self._text(start, line)

    def _text(self, start: int, line: str) -> None:
        if _NO_PARAGRAPH.match(line):
            self._block = "other"
        self._candidate = None if self._block else (start, line)
        self._block = self._block or "paragraph"

    def _end_block(self) -> None:
        self._candidate, self._block = None, ""

    def _add(self, start: int, end: int, level: int, words: str) -> None:
        title = plain_heading(words)
        if title:
            self.headings.append(Heading(start, end, level, title))


def _without_closing(words: str) -> str:
    words = words.strip(" \t")
    kept = words.rstrip("#")
    return kept if not kept or kept[-1] in " \t" else words


def plain_heading(words: str) -> str:
    """A heading's words: links as their text, no emphasis, no anchor, one line, at most 200 code points."""
    words = _ANCHOR.sub("", words[: 4 * MAX_HEADING].strip())
    words = _EMPHASIS.sub("", _LINK.sub(r"\1", words))
    return " ".join(words.split())[:MAX_HEADING].rstrip()


def title_of(headings: list[Heading], file_name: str) -> str:
    """The first heading, else the file's name without its extension."""
    if headings:
        return headings[0].title
    return file_name.rpartition(".")[0][:MAX_HEADING] or file_name[:MAX_HEADING]
