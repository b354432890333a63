"""Rows that nobody needs any more: vectors that no document names, and chunk rows of versions that were replaced.

All of it is joined in DuckDB over Parquet files in a work folder: manifests and chunk files as an audit writes them
(`expected.py`), and the keys of the lake. No structure in memory grows with the collection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from m3core.errors import RefusedError
from pipelines.operate.collection import Collection
from pipelines.operate.expected import Expected, write_expected
from pipelines.state.chunks import keep_rows, read_columns
from pipelines.state.clock import stamp
from pipelines.state.erase.lake import DroppedRows, LakeKeys, drop_lake_rows, fetched, read_lake_keys
from pipelines.state.lakefile import row_count
from pipelines.state.tables import duckdb_connection

# What any document of any generation names. A lost chunk row would hide a key: then nothing is collected.
_NAMED = "SELECT lake_key FROM read_parquet($expected) WHERE NOT obsolete AND lake_key IS NOT NULL"
_UNNAMED = f"""
SELECT file, row FROM read_parquet($lake) l ANTI JOIN ({_NAMED}) e ON l.key = e.lake_key
WHERE l.created < $before ORDER BY file, row
"""  # noqa: S608
# Chunk rows that are of another run than the manifest says, or of no document. One whose vectors are still in the lake
# without being named stays as long as they do: a purge finds them by it.
_STALE = f"""
WITH waiting AS (
    SELECT DISTINCT key FROM read_parquet($lake) l ANTI JOIN ({_NAMED}) e ON l.key = e.lake_key
    WHERE l.created >= $before
)
SELECT k.run, k.part, k.id FROM read_parquet($kept) k
ANTI JOIN (SELECT id, revision FROM read_parquet($own) WHERE NOT obsolete) c ON c.id = k.id AND c.revision = k.run
ANTI JOIN waiting w ON w.key = k.lake_key
ORDER BY k.run, k.part
"""  # noqa: S608


@dataclass(frozen=True)
class Rows:
    """All generations and the lake, read once, in Parquet files."""

    collections: tuple[Collection, ...]
    expected: tuple[Expected, ...]
    lake: LakeKeys
    folder: Path

    @classmethod
    def read(cls, collections: tuple[Collection, ...], folder: Path) -> Rows:
        """Write the files below `folder`. RefusedError if chunk rows are damaged or lost: what they name is unknown."""
        expected = []
        for collection in collections:
            part = folder / f"g{collection.generation.number:05d}"
            part.mkdir(mode=0o700)
            expected.append(write_expected(collection, part))
        rows = cls(collections, tuple(expected), read_lake_keys(collections[0].paths, folder), folder)
        lost = sum(len(one.damaged) for one in expected) or rows._lost()
        if lost:
            raise RefusedError(
                f"{lost:,} chunk rows or files are lost or damaged, and what they name in the lake is not known",
                "m3 repair, then m3 gc again",
            )
        return rows

    def unnamed(self, before: float) -> Iterator[tuple[Path, list[int]]]:
        """Lake files written before this moment, and the rows in them that no document of any generation names."""
        values = {"lake": str(self.lake.file), "expected": self._expected_files, "before": stamp(before)}
        for name, group in groupby(self._select(_UNNAMED, values), itemgetter(0)):
            yield Path(name), [row for _, row in group]

    def stale(self, before: float) -> Iterator[tuple[Path, list[str]]]:
        """Chunk files written before this moment, and ids of the rows in them that nobody needs."""
        for collection, own in zip(self.collections, self.expected, strict=True):
            values = {
                "lake": str(self.lake.file),
                "expected": self._expected_files,
                "before": stamp(before),
                "kept": str(own.folder / "kept.parquet"),
                "own": str(own.file),
            }
            chunks = collection.paths.chunks(collection.generation.number)
            for (run, part), group in groupby(self._select(_STALE, values), itemgetter(0, 1)):
                path = chunks / f"{run:06d}" / part
                if path.stat().st_mtime < before:
                    yield path, [name for *_, name in group]

    @property
    def _expected_files(self) -> list[str]:
        return [str(one.file) for one in self.expected]

    def _lost(self) -> int:
        query = "SELECT count(*) FROM read_parquet($expected) WHERE NOT obsolete AND NOT reread AND lake_key IS NULL"
        [(count,)] = self._select(query, {"expected": self._expected_files})
        return int(count)

    def _select(self, query: str, values: dict[str, Any]) -> Iterator[Any]:
        with duckdb_connection(self.folder) as database:
            database.execute("SET preserve_insertion_order = true")
            yield from fetched(database.execute(query, values))


def count_lake_rows(dropped: Iterator[tuple[Path, list[int]]]) -> DroppedRows:
    """What `drop_lake_rows` would do; bytes by the share of each file's rows."""
    rows = files = size = 0
    for path, numbers in dropped:
        rows, files = rows + len(numbers), files + 1
        size += path.stat().st_size * len(numbers) // max(1, row_count(path))
    return DroppedRows(rows, files, size)


def collect_lake_rows(rows: Rows, before: float, before_each: Callable[[], None]) -> DroppedRows:
    """Write the lake files anew without unnamed rows."""
    return drop_lake_rows(rows.collections[0].paths, rows.unnamed(before), before_each)


def collect_chunk_rows(rows: Rows, before: float, before_each: Callable[[], None], *, dry_run: bool) -> DroppedRows:
    """Write the chunk files anew without stale rows, or (`dry_run`) say what that would do."""
    import pyarrow as pa

    count = files = freed = 0
    for path, ids in rows.stale(before):
        table = read_columns(path, ["id"])
        gone = set(ids)
        kept = [name not in gone for name in table.column("id").to_pylist()]
        size = path.stat().st_size
        if dry_run:
            freed += size * (len(kept) - sum(kept)) // max(1, len(kept))
        else:
            before_each()
            keep_rows(path, pa.array(kept, pa.bool_()))
            freed += size - (path.stat().st_size if path.exists() else 0)
        count, files = count + len(kept) - sum(kept), files + 1
    return DroppedRows(count, files, freed)
