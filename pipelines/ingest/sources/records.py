"""What JSON Lines and Parquet have in common: files that hold many documents, each an object of fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar

from m3core.errors import DocumentError, SourceError
from m3core.types import Document
from pipelines.ingest.documents import DocumentRules, document_from_record, identity_of, too_large
from pipelines.ingest.ids import text_hash
from pipelines.ingest.sources.protocol import FilePart, SkipKind, Skipped, SourceItem, Split, SplitLimits
from pipelines.ingest.sources.splitting import packed
from pipelines.ingest.sources.tree import Found, Passed, Tree
from pipelines.ingest.values import parse_json


@dataclass
class RecordSource(ABC):
    """See `Source`. `tree` is one file, or files with the known extensions.

    An item carries its record as JSON, so that nothing is opened twice. A file that turns out to be damaged is listed
    as a fault, the records before the damage are kept, and the listing does not count as complete.
    """

    name: str
    tree: Tree
    rules: DocumentRules
    max_total_bytes: int
    complete: bool = field(default=False, init=False)

    extensions: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]

    @abstractmethod
    def records(self, path: str) -> Iterator[tuple[int, bytes | None, int]]:
        """Number (from 1), JSON and size in bytes of each record of one file.

        The JSON is None if it is over the limit; if it is blank, there is no record under that number.

        Raises:
            DocumentError: the file is damaged from here on.
        """

    def items(self) -> Iterator[SourceItem | Skipped]:
        """The records of every file, in order; see `Source`."""
        self.complete = False
        settings = text_hash(self.rules.canonical())[:16]
        total, listed = 0, 0
        faults: list[DocumentError] = []
        for entry in self._files():
            if isinstance(entry, Passed):
                if entry.kind is SkipKind.UNREADABLE:
                    faults.append(DocumentError(f"{entry.path}: {entry.reason}", "give read access"))
                yield Skipped(self.name, entry.path, entry.kind, entry.reason)
                continue
            try:
                for number, payload, size in self.records(entry.path):
                    total += size
                    if total > self.max_total_bytes:
                        raise self._too_much()
                    if payload is not None and not payload.strip():
                        continue
                    listed += 1
                    yield self._item(f"{entry.path}:{number}", payload, size, settings)
            except DocumentError as error:
                faults.append(DocumentError(f"{entry.path}: {error.message}", error.remedy))
                yield Skipped(self.name, entry.path, SkipKind.UNREADABLE, error.message)
        if not listed:
            raise self._nothing(faults)
        self.complete = not faults

    @abstractmethod
    def parts(self, file: Found, most: int) -> Iterator[FilePart]:
        """One file in parts of at most about `most` bytes; whole where it cannot be divided. Raises DocumentError."""

    @abstractmethod
    def part_records(self, part: FilePart) -> Iterator[tuple[str, bytes | None, int]]:
        """Place in the file, JSON and size of each record of a part; otherwise as `records`."""

    def splits(self, limits: SplitLimits) -> Iterator[Split | Skipped]:
        """Parts of the files; see `Source`. Of what a step finds damaged the step tells."""
        return packed(self.name, self._parts(limits.bytes), limits)

    def split_items(self, split: Split) -> Iterator[SourceItem | Skipped]:
        """The records of some parts, in order; see `Source`. A file that changed since it was divided is a fault."""
        settings = text_hash(self.rules.canonical())[:16]
        for part in split.parts:
            try:
                for place, payload, size in self.part_records(part):
                    if payload is None or payload.strip():
                        yield self._item(f"{part.path}:{place}", payload, size, settings)
            except DocumentError as error:
                yield Skipped(self.name, part.path, SkipKind.UNREADABLE, error.message)

    def _parts(self, most: int) -> Iterator[FilePart | Skipped]:
        self.complete = False
        total, faults, found = 0, 0, 0
        for entry in self._files():
            if isinstance(entry, Passed):
                faults += entry.kind is SkipKind.UNREADABLE
                yield Skipped(self.name, entry.path, entry.kind, entry.reason)
                continue
            found += 1
            try:
                for part in self.parts(entry, most):
                    total += part.size
                    if total > self.max_total_bytes:
                        raise self._too_much()
                    yield part
            except DocumentError as error:
                faults += 1
                yield Skipped(self.name, entry.path, SkipKind.UNREADABLE, error.message)
        if not found:
            raise self._nothing([])
        self.complete = not faults

    def read(self, item: SourceItem) -> Document:
        """The record as a document; see `Source`."""
        try:
            return document_from_record(self._record(item), self.rules)
        except DocumentError as error:
            raise DocumentError(f"{item.locator}: {error.message}", error.remedy) from None

    def identify(self, item: SourceItem) -> tuple[str, str] | None:
        """Tenant and id that the record names, if it can be read that far; see `Source`."""
        try:
            return identity_of(self._record(item), self.rules)
        except DocumentError:
            return None

    def _item(self, locator: str, payload: bytes | None, size: int, settings: str) -> SourceItem:
        return SourceItem(self.name, None, None, locator, f"{_digest(payload, size)}-{settings}", size, payload)

    def _record(self, item: SourceItem) -> Mapping[str, Any]:
        if item.payload is None:
            raise too_large(item.size, self.rules.max_document_bytes)
        record = parse_json(item.payload, f"the {self.unit}")
        if not isinstance(record, dict):
            raise DocumentError(f"the {self.unit} is no object of fields", "give one JSON object per document")
        return record

    def _files(self) -> Iterator[Found | Passed]:
        one = self.tree.single()
        return self.tree.walk(self.extensions) if one is None else iter((one,))

    def _too_much(self) -> SourceError:
        return SourceError(
            f"{self.tree}: expands to more than {self.max_total_bytes:,} bytes (max_total_bytes)",
            "raise max_total_bytes of the source or split it",
        )

    def _nothing(self, faults: list[DocumentError]) -> SourceError:
        if faults:
            return SourceError(f"{self.tree}: nothing could be read: {faults[0].message}", faults[0].remedy)
        return SourceError(
            f"{self.tree}: no {self.unit} in any file with one of {', '.join(self.extensions)}",
            f"correct {self.tree.key} of the source",
        )


def _digest(payload: bytes | None, size: int) -> str:
    return f"size-{size}" if payload is None else sha256(payload).hexdigest()[:32]
