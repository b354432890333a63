"""Sections: the whole text in order, each with the titles above it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from m3core.types import Document
from pipelines.ingest.outline import Section, sections


def outline(text: str, title: str = "") -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    document = Document("t", "d", text, title, markup="markdown")
    return [(text[part.start : part.end].strip(), part.opening, part.path) for part in sections(document)]


def test_titles_above_each_section() -> None:
    text = "# A\n\none\n\n## B\n\ntwo\n\n### C\nthree\n\n## D\nfour\n\n# E\nfive"
    assert outline(text, "T") == [
        ("# A\n\none", ("T",), ("T", "A")),
        ("## B\n\ntwo", ("T", "A"), ("T", "A", "B")),
        ("### C\nthree", ("T", "A", "B"), ("T", "A", "B", "C")),
        ("## D\nfour", ("T", "A"), ("T", "A", "D")),
        ("# E\nfive", ("T",), ("T", "E")),
    ]


def test_headings_without_text_between_them_open_one_section() -> None:
    assert outline("# A\n\n## B\n\n### C\n\ntext", "T") == [
        ("# A\n\n## B\n\n### C\n\ntext", ("T",), ("T", "A", "B", "C"))
    ]


def test_a_heading_at_the_end_is_kept() -> None:
    assert [text for text, _, _ in outline("text\n\n# End")] == ["text", "# End"]


def test_a_skipped_level_is_no_fault() -> None:
    assert outline("### C\none\n\n# A\ntwo") == [("### C\none", (), ("C",)), ("# A\ntwo", (), ("A",))]


def test_plain_text_is_one_section_under_its_title() -> None:
    document = Document("t", "d", "# no heading", "T")
    assert sections(document) == [Section(0, 12, 0, ("T",), ("T",))]


@given(st.lists(st.sampled_from(["# a", "## b", "c", "", "===", "```", "  "]), max_size=14).map("\n".join))
def test_sections_are_the_whole_text(text: str) -> None:
    parts = sections(Document("t", "d", text, "T", markup="markdown"))
    assert parts[0].start == 0
    assert parts[-1].end == len(text)
    assert all(first.end == second.start for first, second in pairwise(parts))
    assert all(part.start <= part.body <= part.end for part in parts)
