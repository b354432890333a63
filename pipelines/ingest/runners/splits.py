"""Sources in splits: divided by the launcher, listed by it or by workers, of which only keys leave; read again by the
workers that need them.

A split is bounded bytes of a source: some files, a range of bytes of JSON Lines, some row groups of Parquet. Item
`number` of split `n` has the position `n << 32 | number` in the listing, and is found again by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import groupby
from typing import Any

from m3core.config.model import Config
from m3core.errors import SourceError, StateError
from pipelines.ingest import diff
from pipelines.ingest.listing import PURGED, Listing, Seen, cut_sources, list_split, write_places
from pipelines.ingest.reading import Group
from pipelines.ingest.runners.workfiles import WorkFiles
from pipelines.ingest.sources import Source, SourceItem, Split, SplitLimits
from pipelines.ingest.sources.protocol import FilePart
from pipelines.ingest.waves import WaveLimits, item_groups
from pipelines.state.files import make_folder
from pipelines.state.mirror import refresh
from pipelines.state.runs import DeadLetter
from pipelines.state.tombstones import Tombstones

_SPLITS = "splits"
_LISTED = "listed"
_SEEN = "seen"
_NUMBER_BITS = 32
_GROUP_ITEMS = 1000


@dataclass(frozen=True)
class Divided:
    """How many splits the sources have, and of how many bytes. `seen` is what dividing met."""

    splits: int
    bytes: int
    seen: Seen


def divide(sources: Mapping[str, Source], limits: SplitLimits, files: WorkFiles) -> Divided:
    """Keep the splits of all sources as lines of a work file. Raises SourceError."""
    met: list[Seen] = []
    sizes = 0

    def lines() -> Iterator[list[Any]]:
        nonlocal sizes
        for split in cut_sources(sources, limits):
            if isinstance(split, Seen):
                met.append(split)
            else:
                sizes += sum(part.size for part in split.parts)
                yield line_of(split)

    count = files.write_lines(_SPLITS, lines())
    for name in (_LISTED, _SEEN):
        make_folder(files.folder / name)
    write_places((), files.folder / _LISTED / "none.parquet")  # a glob of nothing is an error
    return Divided(count, sizes, reduce(Seen.plus, met, Seen()))


def list_one(number: int, files: WorkFiles, sources: Mapping[str, Source], tombstones: Tombstones) -> int:
    """List one split into the work files; how many documents it has."""
    split = kept_split(number, files)
    places, seen = list_split(number, split, sources[split.source], tombstones)
    write_places(places, files.folder / _LISTED / f"{number:06d}.parquet")
    files.write(f"{_SEEN}/{number:06d}", {**asdict(seen), "incomplete": sorted(seen.incomplete)})
    return len(places)


def listing_of(divided: Divided, files: WorkFiles, config: Config, *, stopped: bool) -> Listing:
    """The listing that all splits make; one that was `stopped` may hide documents of every source.

    SourceError for a source with nothing or too much in it.
    """
    found = [_seen_from(body) for _, body in sorted(files.told(_SEEN))]
    if not stopped and len(found) != divided.splits:
        raise StateError(
            f"{divided.splits - len(found)} of {divided.splits} splits were not listed",
            "see the engine's log, then run it again",
        )
    seen = reduce(Seen.plus, found, divided.seen)
    if stopped:
        seen = seen.plus(Seen(incomplete=frozenset(config.sources)))
    else:
        _check(config, seen)
    listed = files.folder / _LISTED
    refresh(listed, "*.parquet")
    return Listing(listed / "*.parquet", seen.items, seen.failed, seen.letters, seen.skipped, seen.incomplete)


def _check(config: Config, seen: Seen) -> None:
    for name, section in config.sources.items():
        if not seen.listed.get(name) and not seen.failed and not seen.skipped.get(PURGED):
            remedy = f"correct {section.place_key} of the source"
            raise SourceError(f"source {name}: {section.place} has no document", remedy)
        if seen.bytes.get(name, 0) > section.max_total_bytes:
            raise SourceError(
                f"{section.place}: expands to more than {section.max_total_bytes:,} bytes (max_total_bytes)",
                "raise max_total_bytes of the source or split it",
            )


def _seen_from(body: Mapping[str, Any]) -> Seen:
    names = Seen.__dataclass_fields__
    plain = {name: value for name, value in body.items() if name in names}
    letters = tuple(DeadLetter(**letter) for letter in body["letters"])
    return Seen(**{**plain, "letters": letters, "incomplete": frozenset(body["incomplete"])})


def wanted_groups(work: diff.Work) -> Iterator[tuple[dict[str, Any], int]]:
    """What must be read: lines for the workers, by split, and their bytes."""
    places = ((position, size) for batch in diff.wanted_places(work) for position, size in batch)
    for split, found in groupby(places, key=lambda place: place[0] >> _NUMBER_BITS):
        held = list(found)
        for first in range(0, len(held), _GROUP_ITEMS):
            part = held[first : first + _GROUP_ITEMS]
            numbers = [position & ((1 << _NUMBER_BITS) - 1) for position, _ in part]
            yield {"split": split, "numbers": numbers}, sum(size for _, size in part)


def read_group(
    split: Split, numbers: Iterable[int], source: Source, limits: WaveLimits
) -> Iterator[Group | DeadLetter]:
    """The items of a split that are wanted, in groups; those that are not there any more are one dead letter."""
    wanted = set(numbers)
    left = set(wanted)

    def found() -> Iterator[SourceItem]:
        for number, entry in enumerate(source.split_items(split)):
            if number in left and isinstance(entry, SourceItem):
                left.discard(number)
                yield entry
            if not left:
                return

    yield from item_groups(found(), limits)
    if left:
        places = ", ".join(part.path for part in split.parts[:3])
        message = f"{len(left)} documents of {places} could not be read again: it changed since it was listed"
        yield DeadLetter("read", "", "", split.parts[0].path, "document", f"{message}. Remedy: run again")


def line_of(split: Split) -> list[Any]:
    """A split as plain values."""
    return [split.source, [[part.path, part.size, part.stamp, part.first, part.last] for part in split.parts]]


def kept_split(number: int, files: WorkFiles) -> Split:
    """The split of that number."""
    source, parts = files.read_line(_SPLITS, number)
    return Split(source, tuple(FilePart(*values) for values in parts))
