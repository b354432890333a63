"""Bytes to text without guessing, and headings against CommonMark's own parser."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from m3core.errors import DocumentError
from pipelines.ingest.parsing import decode_text, markdown_headings, normalise_newlines, plain_heading, title_of


@pytest.mark.parametrize(
    "data",
    [
        "Schlüssel 鍵".encode(),
        "Schlüssel 鍵".encode("utf-8-sig"),
        "\ufeffSchlüssel 鍵".encode("utf-16-le"),
        "\ufeffSchlüssel 鍵".encode("utf-16-be"),
    ],
)
def test_marked_and_plain_unicode_is_read(data: bytes) -> None:
    assert decode_text(data) == "Schlüssel 鍵"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("Schlüssel".encode("latin-1"), r"not UTF-8 at byte 4\. Remedy: save the file as UTF-8"),
        (b"\xef\xbb\xbfab\xff", "not UTF-8 at byte 5"),
        (b"ab\0cd", "binary: a NUL at byte 2"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary: a NUL at byte 8"),
        (b"\xff\xfea\0\0\0", "binary: a NUL at code point 1"),
        (b"\xff\xfea\0\x00\xd8", "not UTF-16-LE at byte 4"),
        (b"a\xed\xa0\x80", "not UTF-8 at byte 1"),
    ],
)
def test_other_bytes_are_refused_with_their_place(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=f"^{reason}"):
        decode_text(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        text = decode_text(data)
    except DocumentError:
        return
    assert "\0" not in text
    text.encode()


def test_line_ends_become_lf() -> None:
    assert normalise_newlines("a\r\nb\rc\n\r\nd") == "a\nb\nc\n\nd"


def headings(text: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in markdown_headings(text)]


def test_both_kinds_of_headings_with_their_places() -> None:
    text = "# One #\n\nTwo\n===\ntext\n\nThree\n---\n###### Six\n#no\n ####### seven"
    assert headings(text) == [(1, "One"), (1, "Two"), (2, "Three"), (6, "Six")]
    assert [text[found.start : found.end] for found in markdown_headings(text)] == [
        "# One #",
        "Two\n===",
        "Three\n---",
        "###### Six",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```\n# no\n```",
        "~~~~ python\n# no\n~~~\n# no\n~~~~",
        "```\n# never closed",
        "    # code",
        "> # quoted",
        "- item\n---",
        "one\ntwo\n---",
        "\n---\n",
        "#",
        "---\ntitle: x\ndate: y\n---\n",
        "| a |\n---",
    ],
)
def test_what_only_looks_like_a_heading(text: str) -> None:
    assert headings(text) == []


def test_front_matter_is_passed_over_and_headings_go_on() -> None:
    assert headings("---\ntitle: x\n---\n# Real\n\n```\n# no\n```\n## Too") == [(1, "Real"), (2, "Too")]


_parser = MarkdownIt("commonmark")


def _reference(text: str) -> list[tuple[int, int]]:
    """Line and level of CommonMark's top-level headings that have a title.

    CommonMark underlines a whole paragraph; we take single lines only, so those of more lines are left out.
    """
    tokens = _parser.parse(text)
    return [
        (token.map[0], int(token.tag[1]))
        for token, inline in pairwise(tokens)
        if token.type == "heading_open"
        and token.level == 0
        and token.map
        and token.map[1] - token.map[0] <= 2
        and plain_heading(inline.content)
    ]


_line = st.sampled_from(
    ["# a", "## b ##", "c", "===", "---", "```", "~~~", "", "", "#d", "    e", "   # f", "> g", "  h"]
)


@settings(max_examples=300)
@given(st.lists(_line, max_size=12).map("\n".join))
@example("c\n\nc\n===\nc\n---")
def test_headings_are_those_of_commonmark(text: str) -> None:
    ours = [(text.count("\n", 0, found.start), found.level) for found in markdown_headings(text)]
    assert ours == _reference(text)


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("The **key** of `m3` and [a link](https://example.org)", "The key of m3 and a link"),
        ("snake_case and 2 * 3", "snake_case and 2 * 3"),
        ("Keys {#keys}", "Keys"),
        ("a" * 300, "a" * 200),
        ("  two\t words ", "two words"),
    ],
)
def test_titles_without_markup(words: str, title: str) -> None:
    assert plain_heading(words) == title


def test_a_title_is_the_first_heading_else_the_files_name() -> None:
    assert title_of(markdown_headings("text\n\n## Two\n\n# One"), "a.md") == "Two"
    assert title_of([], "travel-7.txt") == "travel-7"
    assert title_of([], "README") == "README"


@pytest.mark.parametrize(
    "line", ["#" * 200_000, "[" * 200_000, "- " * 100_000, "=" * 200_000 + "x", "`" * 200_000 + "x`"]
)
def test_hostile_lines_take_no_time(line: str) -> None:
    started = time.process_time()
    markdown_headings(f"# {line}\n{line}\n\n{line}\n---\n" * 3)
    assert time.process_time() - started < 5
