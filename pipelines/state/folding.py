"""The waves of a manifest as a few sorted files, from which a compaction reads one part of the shards after the other.

A wave's file holds rows of all shards. Without this step every part would open every wave again, and a reader of many
files at once keeps the footers of all: both grow with the number of waves. Here each wave is read once, and later a row
group only by the parts that its shards belong to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.state.documents import DOCUMENTS, documents_schema, newest
from pipelines.state.files import temporary_folder
from pipelines.state.tables import open_table, reading, write_table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# A row group has some shards of a file of 33,000 rows.
_SORTED = replace(DOCUMENTS, rows_per_group=2048)

Shards = tuple[int, int]


@dataclass(frozen=True)
class SortedWaves:
    """Files by (shard, tenant, doc_id), of each document the newest row within the file, and the shards they touch."""

    files: tuple[Path, ...]
    shards: frozenset[int]

    def touch(self, first: int, last: int) -> bool:
        """Whether a row is of the shards from `first` to `last`."""
        return any(first <= shard <= last for shard in self.shards)


@contextmanager
def sorted_waves(waves: Sequence[Path], folder: Path, rows: int) -> Iterator[SortedWaves]:
    """Sort the files of some waves into files of about `rows` rows, in a folder of its own that goes at the end.

    Raises DamagedError if a file cannot be read, DiskFullError.
    """
    import pyarrow as pa

    files: list[Path] = []
    shards: set[int] = set()
    gathered: list[pa.Table] = []

    def write(place: Path) -> None:
        table = newest(pa.concat_tables(gathered))
        gathered.clear()
        shards.update(table.column("shard").unique().to_pylist())
        files.append(place / f"{len(files):05d}.parquet")
        write_table(files[-1], _SORTED, table.schema, [table])

    with temporary_folder(folder, "fold") as place:
        for wave in waves:
            gathered.append(_read(wave))
            if sum(table.num_rows for table in gathered) >= rows:
                write(place)
        if gathered:
            write(place)
        yield SortedWaves(tuple(files), frozenset(shards))


def rows_between(files: Sequence[Path], shards: Shards) -> pa.Table:
    """The rows of these shards (first, last) in files that are sorted by shard, one file after the other."""
    import pyarrow as pa

    found = [documents_schema().empty_table()]
    for path in files:
        file = open_table(path, DOCUMENTS, documents_schema())
        with reading(path):
            groups = [number for number in range(file.num_row_groups) if _overlaps(file, number, shards)]
            if groups:
                found.append(_within(file.read_row_groups(groups), shards))
    return pa.concat_tables(found)


def rows_of(files: Sequence[Path], doc_ids: pa.Array) -> pa.Table:
    """The rows of documents with these ids, one row group after the other: Arrow's scanner reads many ahead."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = [documents_schema().empty_table()]
    for path in files:
        file = open_table(path, DOCUMENTS, documents_schema())
        with reading(path):
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                found.append(rows.filter(pc.is_in(rows.column("doc_id"), value_set=doc_ids)))
    return pa.concat_tables(found)


def _read(path: Path) -> pa.Table:
    file = open_table(path, DOCUMENTS, documents_schema())
    with reading(path):
        return file.read()


def _overlaps(file: pq.ParquetFile, group: int, shards: Shards) -> bool:
    found = file.metadata.row_group(group).column(documents_schema().get_field_index("shard")).statistics
    return found is None or not found.has_min_max or (found.min <= shards[1] and found.max >= shards[0])


def _within(rows: pa.Table, shards: Shards) -> pa.Table:
    import pyarrow.compute as pc

    shard = rows.column("shard")
    return rows.filter(pc.and_(pc.greater_equal(shard, shards[0]), pc.less_equal(shard, shards[1])))
