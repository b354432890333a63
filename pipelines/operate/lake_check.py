"""The lake read whole: every row's checksum, and whether it has the vectors of every chunk that is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.operate.collection import Collection
from pipelines.operate.expected import Expected, ExpectedRow, row_of
from pipelines.state import lakefile
from pipelines.state.files import DamagedError
from pipelines.state.lake import Lake
from pipelines.state.tables import duckdb_connection

_BATCH = 8192
_SOUND = "sound.parquet"


@dataclass(frozen=True)
class LakeCheck:
    """Files and rows that are sound; `corrupt` files, none of whose rows count. `unreferenced`: rows of no chunk."""

    files: int
    rows: int
    corrupt: tuple[Path, ...]
    unreferenced: int


def check_lake(collection: Collection, expected: Expected) -> LakeCheck:
    """Read every file of the generation's encoder, one at a time, and write the keys of the sound ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fingerprint = collection.generation.encoder_fingerprint
    schema = pa.schema([("key", pa.binary(32))])
    files = rows = 0
    corrupt: list[Path] = []
    with pq.ParquetWriter(expected.folder / _SOUND, schema) as writer:
        for path in sorted(Lake(collection.paths, fingerprint, read_only=True).files()):
            try:
                keys = sound_keys(path, fingerprint)
            except DamagedError:
                corrupt.append(path)
                continue
            except FileNotFoundError:  # moved aside by a run since it was listed
                continue
            files, rows = files + 1, rows + len(keys)
            writer.write_table(pa.table({"key": pa.array(keys, pa.binary(32))}))
    return LakeCheck(files, rows, tuple(corrupt), _unreferenced(expected))


def sound_keys(path: Path, fingerprint: str) -> list[bytes]:
    """Keys of a file all of whose rows were read and found as they were written; DamagedError if one was not."""
    keys = [key.ljust(lakefile.KEY_BYTES, b"\0") for key in lakefile.read_keys(path).tolist()]
    for _ in lakefile.read_rows(path, range(len(keys)), keys, fingerprint):
        pass
    return keys


def rows_without(expected: Expected) -> Iterator[ExpectedRow]:
    """Chunks whose row is in no chunk file, or whose vectors are in no sound lake file, ascending by id.

    Those of documents that the next run reads again are left out: it makes both.
    """
    query = """
    SELECT e.* FROM read_parquet($expected) e ANTI JOIN read_parquet($sound) s ON e.lake_key = s.key
    WHERE NOT e.obsolete AND NOT e.reread ORDER BY e.id
    """
    with duckdb_connection(expected.folder) as database:
        for batch in database.sql(query, params=_files(expected)).to_arrow_reader(_BATCH):
            yield from map(row_of, batch.to_pylist())


def _unreferenced(expected: Expected) -> int:
    query = "SELECT count(*) FROM read_parquet($sound) s ANTI JOIN read_parquet($expected) e ON e.lake_key = s.key"
    with duckdb_connection(expected.folder) as database:
        found: Any = database.execute(query, _files(expected)).fetchone()
    return int(found[0])


def _files(expected: Expected) -> dict[str, str]:
    return {"expected": str(expected.file), "sound": str(expected.folder / _SOUND)}
