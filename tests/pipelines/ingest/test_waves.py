"""Cutting work into groups and waves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m3core.types import Document
from pipelines.ingest.diff import Wanted
from pipelines.ingest.reading import ItemGroup, RecordGroup
from pipelines.ingest.sources import Skipped, SourceItem
from pipelines.ingest.waves import WaveLimits, cut_waves, item_groups, record_groups, source_bytes, wanted_items
from tests.pipelines.ingest.parts import record_of


def item(number: int, size: int) -> SourceItem:
    return SourceItem("docs", "default", f"d{number}", f"d{number}", "s", size)


@given(st.lists(st.integers(0, 5000)), st.integers(1, 6000))
def test_groups_and_waves_keep_everything_in_order_within_their_bounds(sizes: list[int], wave_bytes: int) -> None:
    limits = WaveLimits(wave_bytes, 384)
    items = [item(number, size) for number, size in enumerate(sizes)]
    waves = list(cut_waves(item_groups(items, limits), [], limits))
    groups = [group for wave in waves for group in wave]
    assert [each for group in groups if isinstance(group, ItemGroup) for each in group.items] == items
    for group in groups:
        assert isinstance(group, ItemGroup)
        assert len(group.items) == 1 or sum(each.size for each in group.items) <= limits.group_bytes
    for wave in waves:
        text = sum(each.size for group in wave if isinstance(group, ItemGroup) for each in group.items)
        assert len(wave) == 1 or text <= wave_bytes


def test_small_items_are_cut_by_number_too() -> None:
    groups = list(item_groups([item(number, 0) for number in range(2500)], WaveLimits(1 << 30, 384)))
    assert [len(group.items) for group in groups] == [1000, 1000, 500]


def test_records_come_first_and_are_bounded_by_their_chunks() -> None:
    limits = WaveLimits(1 << 16, 64)
    records = [record_of(f"d{number}", ["c"] * 10) for number in range(300)]
    groups = list(record_groups(records, limits))
    assert limits.group_chunks == 256
    assert all(sum(len(record.chunk_ids) for record in group.records) <= 256 for group in groups)
    waves = list(cut_waves(item_groups([item(0, 1)], limits), groups, limits))
    restored = [group for wave in waves for group in wave if isinstance(group, RecordGroup)]
    assert [record for group in restored for record in group.records] == records
    assert isinstance(waves[-1][-1], ItemGroup)
    assert len(waves) > 1


@dataclass
class Entries:
    """A source that lists what it was given."""

    name: str
    entries: list[SourceItem | Skipped]
    complete: bool = True
    listed: int = field(default=0)

    def items(self) -> Iterator[SourceItem | Skipped]:
        self.listed += 1
        return iter(self.entries)

    def identify(self, item: SourceItem) -> tuple[str, str] | None:
        raise NotImplementedError

    def read(self, item: SourceItem) -> Document:
        raise NotImplementedError


def test_only_wanted_items_come_and_nothing_is_listed_for_none() -> None:
    source = Entries("docs", [item(number, 1) for number in range(5)])
    wanted = Wanted.of(iter([[("docs", "d1"), ("docs", "d4")], [("other", "d2")]]))
    assert [each.locator for each in wanted_items({"docs": source}, wanted)] == ["d1", "d4"]
    assert list(wanted_items({"docs": source}, Wanted(np.empty(0, dtype=np.int64)))) == []
    assert source.listed == 1


def test_listed_bytes_of_a_wave_are_known_unless_it_comes_from_the_state_folder() -> None:
    assert source_bytes([ItemGroup((item(0, 5), item(1, 6))), ItemGroup((item(2, 7),))]) == 18
    assert source_bytes([ItemGroup((item(0, 5),)), RecordGroup((record_of("a"),))]) is None
