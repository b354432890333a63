"""Waves: groups of work whose text is bounded, each a graph of its own and each committed.

FnApiRunner keeps in memory what passes between stages; a wave is what it may keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from m3core.config.model import Config
from pipelines.ingest.diff import Wanted
from pipelines.ingest.reading import Group, ItemGroup, RecordGroup
from pipelines.ingest.sources import Source, SourceItem
from pipelines.state.manifest import DocumentRecord

T = TypeVar("T")

_GROUP_BYTES = 1 << 20
_GROUP_ITEMS = 1000
# What one item costs besides its text: its listing entry, its record, its part of a batch.
_ITEM_OVERHEAD = 256
# Groups from the state folder are larger: each looks into all chunk files of the run that wrote its rows.
_RESTORED_BYTES = 4 << 20
# UTF-8 bytes of one token, about; a chunk is taken to be full.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class WaveLimits:
    """Bytes of text in a wave and in a group of it."""

    wave_bytes: int
    chunk_tokens: int

    @classmethod
    def of(cls, config: Config) -> WaveLimits:
        """The configured ones."""
        return cls(config.ingest.wave_bytes, config.chunking.max_tokens)

    @property
    def group_bytes(self) -> int:
        """A group is one element of the graph; a wave has several, so that stopping is quick."""
        return min(_GROUP_BYTES, max(1, self.wave_bytes // 4))

    @property
    def group_chunks(self) -> int:
        """Chunks of a group that comes from the state folder."""
        return max(1, min(_RESTORED_BYTES, self.wave_bytes) // (self.chunk_tokens * _BYTES_PER_TOKEN))


def wanted_items(sources: Mapping[str, Source], wanted: Wanted) -> Iterator[SourceItem]:
    """List the sources once more and keep the items that must be read; nothing is listed if nothing is wanted."""
    if not len(wanted):
        return
    for source in sources.values():
        for entry in source.items():
            if isinstance(entry, SourceItem) and wanted.has(entry.source, entry.locator):
                yield entry


def item_groups(items: Iterable[SourceItem], limits: WaveLimits) -> Iterator[ItemGroup]:
    """Items in groups of at most about a megabyte; a larger item goes alone."""
    for part in cut_parts(items, lambda item: item.size + _ITEM_OVERHEAD, limits.group_bytes, _GROUP_ITEMS):
        yield ItemGroup(tuple(part))


def record_groups(records: Iterable[DocumentRecord], limits: WaveLimits) -> Iterator[RecordGroup]:
    """Records in groups of a bounded number of chunks."""
    for part in cut_parts(records, lambda record: len(record.chunk_ids), limits.group_chunks, _GROUP_ITEMS):
        yield RecordGroup(tuple(part))


def cut_waves(items: Iterable[ItemGroup], records: Iterable[RecordGroup], limits: WaveLimits) -> Iterator[list[Group]]:
    """Groups in waves: first what waits in the state folder, then what must be read."""

    def size_of(group: Group) -> int:
        if isinstance(group, RecordGroup):
            return record_bytes(group, limits)
        return sum(item.size + _ITEM_OVERHEAD for item in group.items)

    yield from cut_parts(chain[Group](records, items), size_of, limits.wave_bytes)


def record_bytes(group: RecordGroup, limits: WaveLimits) -> int:
    """Bytes of text that the chunks of records have at most, about."""
    chunks = sum(len(record.chunk_ids) for record in group.records)
    return chunks * limits.chunk_tokens * _BYTES_PER_TOKEN


def source_bytes(wave: Sequence[Group]) -> int | None:
    """Listed bytes of a wave's documents; None if some come from the state folder, where that is not known."""
    if any(isinstance(group, RecordGroup) for group in wave):
        return None
    return sum(item.size for group in wave if isinstance(group, ItemGroup) for item in group.items)


def cut_parts(
    parts: Iterable[T], size_of: Callable[[T], int], most: int, most_parts: int | None = None
) -> Iterator[list[T]]:
    """Parts in lists of at most `most` bytes (or one part) and at most `most_parts` parts."""
    held: list[T] = []
    total = 0
    for part in parts:
        size = size_of(part)
        if held and (total + size > most or (most_parts is not None and len(held) >= most_parts)):
            yield held
            held, total = [], 0
        held.append(part)
        total += size
    if held:
        yield held
