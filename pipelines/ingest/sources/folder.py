"""A folder of text and Markdown: one file is one document, its path below the folder is its id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from m3core.errors import DocumentError, SourceError
from m3core.types import Document
from pipelines.ingest.documents import DocumentRules, document_from_text, too_large
from pipelines.ingest.ids import text_hash
from pipelines.ingest.parsing import decode_text, markdown_headings, normalise_newlines, title_of
from pipelines.ingest.sources.protocol import FilePart, SkipKind, Skipped, SourceItem, Split, SplitLimits
from pipelines.ingest.sources.splitting import packed
from pipelines.ingest.sources.tree import Passed, Tree

PLAIN = (".txt", ".text")
MARKDOWN = (".md", ".markdown")


@dataclass
class FolderSource:
    """See `Source`. A document's title is its first heading, else the file's name; its text has LF line ends."""

    name: str
    tree: Tree
    rules: DocumentRules
    max_total_bytes: int
    complete: bool = field(default=False, init=False)

    def items(self) -> Iterator[SourceItem | Skipped]:
        """Text and Markdown files, and what was passed over; see `Tree`."""
        settings = self._settings()
        for entry in self._entries():
            yield entry if isinstance(entry, Skipped) else self._item(entry, settings)

    def splits(self, limits: SplitLimits) -> Iterator[Split | Skipped]:
        """The same files by the thousand; see `Source`."""
        return packed(self.name, self._entries(), limits)

    def split_items(self, split: Split) -> Iterator[SourceItem | Skipped]:
        """Their items; nothing is opened."""
        settings = self._settings()
        return (self._item(part, settings) for part in split.parts)

    def _entries(self) -> Iterator[FilePart | Skipped]:
        self.complete = False
        total, faults = 0, 0
        passed: Counter[str] = Counter()
        for entry in self.tree.walk(PLAIN + MARKDOWN):
            if isinstance(entry, Passed):
                faults += entry.kind is SkipKind.UNREADABLE
                passed[_counted(entry)] += 1
                yield Skipped(self.name, entry.path, entry.kind, entry.reason)
                continue
            total += entry.size
            if total > self.max_total_bytes:
                raise SourceError(
                    f"{self.tree}: more than {self.max_total_bytes:,} bytes of text (max_total_bytes)",
                    "raise max_total_bytes of the source or split it",
                )
            passed["read"] += 1
            yield FilePart(entry.path, entry.size, entry.stamp)
        if not passed["read"]:
            raise _nothing(self.tree, passed)
        self.complete = not faults

    def _item(self, part: FilePart, settings: str) -> SourceItem:
        stamp = f"{part.stamp}-{settings}"
        return SourceItem(self.name, self.rules.tenant, part.path, part.path, stamp, part.size)

    def _settings(self) -> str:
        return text_hash(self.rules.canonical())[:16]

    def read(self, item: SourceItem) -> Document:
        """Read and parse one file; see `Source`."""
        try:
            return self._document(item)
        except DocumentError as error:
            raise DocumentError(f"{item.locator}: {error.message}", error.remedy) from None

    def identify(self, item: SourceItem) -> tuple[str, str] | None:
        """The source's tenant and the path; see `Source`."""
        return self.rules.tenant, item.locator

    def _document(self, item: SourceItem) -> Document:
        limit = self.rules.max_document_bytes
        listed = item.stamp.rpartition("-")[0] if self.tree.stamps_return else ""  # see `_item`
        with self.tree.open(item.locator, listed) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise too_large(max(item.size, len(data)), limit)
        text = normalise_newlines(decode_text(data))
        path = PurePosixPath(item.locator)
        markdown = path.suffix.lower() in MARKDOWN
        title = title_of(markdown_headings(text) if markdown else [], path.name)
        return document_from_text(item.locator, text, title, "markdown" if markdown else "plain", self.rules)


def _counted(entry: Passed) -> str:
    if entry.kind is not SkipKind.UNSUPPORTED:
        return str(entry.kind)
    return PurePosixPath(entry.path).suffix.lower() or "no extension"


def _nothing(tree: Tree, passed: Counter[str]) -> SourceError:
    found = ", ".join(f"{count:,} {what}" for what, count in passed.most_common(8) if count) or "nothing"
    return SourceError(
        f"{tree}: no file with one of {', '.join(PLAIN + MARKDOWN)}; found: {found}",
        f"correct {tree.key} of the source, or set kind = jsonl or parquet",
    )
