"""What a source offers: a listing in a fixed order, and one document per item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from m3core.types import Document


class SkipKind(StrEnum):
    """Why something in a source is no document."""

    HIDDEN = "hidden"
    UNSUPPORTED = "unsupported"
    LINK = "link"
    SPECIAL = "special"
    NAME = "name"
    UNREADABLE = "unreadable"


# These are faults, not choices: each is reported like a document that failed.
FAULTS = frozenset({SkipKind.NAME, SkipKind.UNREADABLE})


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One document as the listing sees it; picklable and small, unless it carries its bytes.

    `locator` says where it is in words for people (`handbook/a.md`, `docs.jsonl:17`, `p.parquet#20480`) and is unique
    in the source. `stamp` changes when the document or the settings that shape it change. `size` counts bytes.
    `doc_id` is known before reading for folders only.
    """

    source: str
    tenant: str | None
    doc_id: str | None
    locator: str
    stamp: str
    size: int
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that the listing passed over. `failed` ones belong into the dead letters."""

    source: str
    locator: str
    kind: SkipKind
    reason: str

    @property
    def failed(self) -> bool:
        """Whether it is a fault (a corrupt file) rather than a rule (a hidden file)."""
        return self.kind in FAULTS


@dataclass(frozen=True, slots=True)
class FilePart:
    """Part of one file: what is read between two engines' steps must not need the file's other parts.

    `first` and `last` (not in it) count bytes of JSON Lines or row groups of Parquet; both are 0 for a whole file.
    `stamp` is the file's when it was listed.
    """

    path: str
    size: int
    stamp: str
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """Parts of files of one source that one step lists and reads: bounded bytes, unless one part cannot be divided."""

    source: str
    parts: tuple[FilePart, ...]


@dataclass(frozen=True, slots=True)
class SplitLimits:
    """Most bytes and files of a split."""

    bytes: int = 4 << 20
    files: int = 1000


@runtime_checkable
class Source(Protocol):
    """One configured source. Picklable, so that items can be read in another process than the one that listed them."""

    @property
    def name(self) -> str:
        """The key of the source in the configuration."""

    @property
    def complete(self) -> bool:
        """True once `items` was exhausted without a fault that may hide documents; deletes need that."""

    def items(self) -> Iterator[SourceItem | Skipped]:
        """List the source in a fixed order, streaming.

        Raises:
            SourceError: it cannot be read at all, or expands beyond `max_total_bytes`, or holds nothing readable.
        """

    def splits(self, limits: SplitLimits) -> Iterator[Split | Skipped]:
        """The source in parts, in the order of `items`; no document is read. One of the two sets `complete`.

        Raises SourceError as `items`, as far as it can be told from outside.
        """

    def split_items(self, split: Split) -> Iterator[SourceItem | Skipped]:
        """Items of one split, in a fixed order. Together the splits have the items that `items` lists."""

    def read(self, item: SourceItem) -> Document:
        """The document of one item.

        Raises:
            DocumentError: this document cannot be ingested; the others can.
        """

    def identify(self, item: SourceItem) -> tuple[str, str] | None:
        """(tenant, doc_id) of an item, as far as it can be told of one that `read` refuses; else None.

        A refused item without identity may be any document: deletes are not safe in that run.
        """
