"""The sections of a document and the headings above them: where chunks begin anew, and what they carry as context."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from m3core.types import Document
from pipelines.ingest.parsing import MAX_HEADING, Heading, markdown_headings

SEPARATOR = " > "


@dataclass(frozen=True, slots=True)
class Section:
    """`text[start:end]`, from one heading to the next; what follows the headings themselves begins at `body`.

    `opening` are the titles above its first chunk, which holds the section's own heading in its text; `path` are those
    above the chunks that follow, the own heading included. The document's title leads both, unless a heading says it.
    """

    start: int
    end: int
    body: int
    opening: tuple[str, ...] = ()
    path: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Code points."""
        return self.end - self.start


def sections(document: Document) -> list[Section]:
    """Sections of the document, in order; together they are the whole text. Plain text is one section.

    Headings with nothing between them open one section together: a heading alone says nothing.
    """
    headings = markdown_headings(document.text) if document.markup == "markdown" else []
    title = document.title[:MAX_HEADING].rstrip()
    if not headings:
        return [Section(0, len(document.text), 0, _titles(title, ()), _titles(title, ()))]
    runs = _runs(document.text, headings)
    found: list[Section] = []
    if document.text[: runs[0][0].start].strip():
        found.append(Section(0, runs[0][0].start, 0, _titles(title, ()), _titles(title, ())))
    above: list[Heading] = []
    for number, run in enumerate(runs):
        outer = _enclosing(above, run[0])
        for heading in run:
            above = [*_enclosing(above, heading), heading]
        start = run[0].start if found or number else 0
        end = runs[number + 1][0].start if number + 1 < len(runs) else len(document.text)
        opening = _titles(title, outer, said={heading.title for heading in run})
        found.append(Section(start, end, run[-1].end, opening, _titles(title, above)))
    return found


def _runs(text: str, headings: Sequence[Heading]) -> list[list[Heading]]:
    runs: list[list[Heading]] = []
    for heading in headings:
        if runs and not text[runs[-1][-1].end : heading.start].strip():
            runs[-1].append(heading)
        else:
            runs.append([heading])
    return runs


def _enclosing(above: Sequence[Heading], heading: Heading) -> list[Heading]:
    return [outer for outer in above if outer.level < heading.level]


def _titles(title: str, above: Sequence[Heading], said: AbstractSet[str] = frozenset()) -> tuple[str, ...]:
    titles = [heading.title for heading in above]
    lead = [] if not title or title in titles or title in said else [title]
    return (*lead, *titles)
