"""Rows of the lake that have to go, found by a join over all its keys, and the files written anew without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.state import lakefile
from pipelines.state.chunks import ChunkFiles, chunk_schema
from pipelines.state.erase.victims import Victims
from pipelines.state.files import DamagedError, remove_files
from pipelines.state.lakerewrite import drop_rows, tidy_index
from pipelines.state.paths import StatePaths
from pipelines.state.tables import dataset, duckdb_connection

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_BATCH = 8192

# Keys of erased chunks that no chunk of another document names, in any generation, whatever its run.
_DROPPED = """
WITH victims AS (SELECT DISTINCT lake_key FROM read_parquet($rows) WHERE lake_key IS NOT NULL),
shared AS (
    SELECT DISTINCT c.lake_key FROM chunks c SEMI JOIN victims v ON c.lake_key = v.lake_key
    ANTI JOIN (SELECT DISTINCT tenant, doc_id FROM read_parquet($rows)) d USING (tenant, doc_id)
)
SELECT l.file, l.row FROM read_parquet($lake) l
SEMI JOIN victims v ON l.key = v.lake_key ANTI JOIN shared s ON l.key = s.lake_key
ORDER BY l.file, l.row
"""


@dataclass(frozen=True)
class LakeKeys:
    """Every row of the lake in a Parquet file: file, row, key, and the stamp of the file. `damaged` cannot be read."""

    file: Path
    damaged: tuple[Path, ...]


@dataclass(frozen=True)
class DroppedRows:
    """What left the lake; bytes that this gave back."""

    rows: int = 0
    files: int = 0
    bytes: int = 0


def read_lake_keys(paths: StatePaths, folder: Path) -> LakeKeys:
    """Read the keys of every file of every encoder, one file at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    damaged: list[Path] = []
    file = folder / "lake.parquet"
    with pq.ParquetWriter(file, _schema()) as writer:
        for path in lake_files(paths):
            try:
                keys = lakefile.read_columns(path, ["key"]).column("key")
                created = lakefile.read_created(path)
            except DamagedError:
                damaged.append(path)
                continue
            count = len(keys)
            columns = [[str(path)] * count, list(range(count)), keys, [created] * count]
            arrays = [_array(column, field.type) for column, field in zip(columns, _schema(), strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=_schema()))
    return LakeKeys(file, tuple(damaged))


def lake_files(paths: StatePaths) -> list[Path]:
    """Every lake file, of every encoder."""
    return sorted((paths.root / "lake").glob(f"*/[0-9a-f]*{lakefile.SUFFIX}"))


def erased_lake_rows(
    paths: StatePaths, generations: list[int], victims: Victims, keys: LakeKeys
) -> Iterator[tuple[Path, list[int]]]:
    """Lake files and the rows in them that hold vectors of erased chunks only."""
    files = [path for number in generations for _, path in ChunkFiles(paths, number).files()]
    sound = [path for path in files if path not in set(victims.damaged)]
    with duckdb_connection(victims.folder) as database:
        database.register("chunks", dataset(sound, chunk_schema()) if sound else chunk_schema().empty_table())
        database.execute("SET preserve_insertion_order = true")
        rows = database.execute(_DROPPED, {"rows": str(victims.rows_file), "lake": str(keys.file)})
        for name, group in groupby(fetched(rows), itemgetter(0)):
            yield Path(name), [row for _, row in group]


def fetched(rows: duckdb.DuckDBPyConnection) -> Iterator[Any]:
    """The rows of an answer, a batch at a time."""
    while batch := rows.fetchmany(_BATCH):
        yield from batch


def drop_lake_rows(
    paths: StatePaths, dropped: Iterator[tuple[Path, list[int]]], before_each: Callable[[], None]
) -> DroppedRows:
    """Write the files anew, then the index of every encoder. `before_each` runs before every file."""
    rows = files = freed = 0
    for path, numbers in dropped:
        before_each()
        freed += drop_rows(path.parent, path.name, numbers)
        rows, files = rows + len(numbers), files + 1
    for folder in sorted((paths.root / "lake").glob("*/")):
        before_each()
        tidy_index(paths, folder.name)
    return DroppedRows(rows, files, freed)


def remove_damaged(paths: StatePaths, files: tuple[Path, ...]) -> int:
    """Remove files that cannot be read, and those that were moved aside as damaged: any of them may hold what goes."""
    aside = [path for path in paths.root.rglob("*.damaged") if path.is_file()]
    remove_files([*files, *aside])
    return len(files) + len(aside)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks().cast(kind)
    return pa.array(values, kind)


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"file": pa.string(), "row": pa.int32(), "key": pa.binary(32), "created": pa.string()}
    return pa.schema(list(kinds.items()))
