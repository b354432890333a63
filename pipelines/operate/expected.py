"""What every store should hold, as one sorted file: the manifest's chunks joined with the chunk files.

Everything passes through Parquet files in a work folder and DuckDB joins that spill there; no structure in memory grows
with the collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.operate.collection import Collection, steady
from pipelines.state.chunks import ChunkFiles, read_keys
from pipelines.state.documents import DocumentRecord
from pipelines.state.files import DamagedError
from pipelines.state.tables import duckdb_connection

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH = 8192
_EXPECTED = "expected.parquet"

# A chunk row counts only if it is of the run that the manifest names; of several waves the last one.
_JOIN = """
COPY (
    WITH rows AS (
        SELECT id, run, max_by(lake_key, part) AS lake_key, max_by(acl, part) AS acl
        FROM read_parquet($kept) GROUP BY id, run
    )
    SELECT n.id, n.tenant, n.doc_id, n.revision, n.obsolete, n.reread, n.pending, r.lake_key, r.acl
    FROM read_parquet($named) n LEFT JOIN rows r ON NOT n.obsolete AND r.id = n.id AND r.run = n.revision
    ORDER BY n.id
) TO $expected (FORMAT parquet)
"""


@dataclass(frozen=True, slots=True)
class ExpectedRow:
    """A chunk that stores should have, or (`obsolete`) one that the next run takes out of them.

    `pending`: stores that wait for it, or that refused its document. `reread`: the next run reads its document again,
    whatever its stamp.
    `lake_key` and `acl` are None if no chunk file has its row.
    """

    id: str
    tenant: str
    doc_id: str
    revision: int
    obsolete: bool
    reread: bool
    pending: tuple[str, ...]
    lake_key: str | None
    acl: tuple[str, ...] | None


@dataclass(frozen=True)
class Expected:
    """The sorted file. `chunk_files`, `chunk_rows` and `damaged` are about the chunk files that were read."""

    folder: Path
    documents: int
    chunks: int
    chunk_files: int
    chunk_rows: int
    damaged: tuple[Path, ...]

    @property
    def file(self) -> Path:
        """Rows ascending by id."""
        return self.folder / _EXPECTED

    def rows(self) -> Iterator[ExpectedRow]:
        """All rows, ascending by id, a batch at a time."""
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(self.file).iter_batches(_BATCH):
            for row in batch.to_pylist():
                yield row_of(row)


def row_of(values: dict[str, Any]) -> ExpectedRow:
    """One row of the file from Arrow's values."""
    key, acl = values.pop("lake_key"), values.pop("acl")
    pending = tuple(values.pop("pending"))
    return ExpectedRow(
        **values,
        pending=pending,
        lake_key=None if key is None else key.hex(),
        acl=None if acl is None else tuple(acl),
    )


def write_expected(collection: Collection, folder: Path) -> Expected:
    """Read manifest and chunk files once. StateError if the manifest is damaged; a damaged chunk file is counted."""
    documents, chunks = steady(lambda: _write_named(collection, folder / "named.parquet"))
    files, rows, damaged = _write_kept(collection, folder / "kept.parquet")
    with duckdb_connection(folder) as database:
        named, kept, expected = (str(folder / name) for name in ("named.parquet", "kept.parquet", _EXPECTED))
        database.execute("SET preserve_insertion_order = true")  # of the sorted output
        database.execute(_JOIN, {"named": named, "kept": kept, "expected": expected})
    return Expected(folder, documents, chunks, files, rows, damaged)


def _write_named(collection: Collection, file: Path) -> tuple[int, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents = chunks = 0
    with pq.ParquetWriter(file, _named_schema()) as writer:
        held: list[dict[str, Any]] = []
        for record in collection.manifest.records(removed=True):
            if not record.removed:
                documents += 1
                chunks += len(record.chunk_ids)
            held += _named(record)
            if len(held) >= _BATCH:
                writer.write_table(pa.Table.from_pylist(held, schema=_named_schema()))
                held = []
        writer.write_table(pa.Table.from_pylist(held, schema=_named_schema()))
    return documents, chunks


def _named(record: DocumentRecord) -> Iterator[dict[str, Any]]:
    pending = [name for name, status in record.status.items() if status != "done"]
    common = {
        "tenant": record.tenant,
        "doc_id": record.doc_id,
        "revision": record.revision,
        "reread": not record.stamp,
        "pending": pending,
    }
    for chunk_id in record.chunk_ids:
        yield {"id": chunk_id, "obsolete": record.removed, **common}
    for chunk_id in record.obsolete_chunk_ids:
        yield {"id": chunk_id, "obsolete": True, **common}


def _write_kept(collection: Collection, file: Path) -> tuple[int, int, tuple[Path, ...]]:
    import pyarrow.parquet as pq

    files = rows = 0
    damaged: list[Path] = []
    with pq.ParquetWriter(file, _kept_schema()) as writer:
        for run, path in ChunkFiles(collection.paths, collection.generation.number).files():
            files += 1
            try:
                table = read_keys(path)
            except DamagedError:
                damaged.append(path)
                continue
            except FileNotFoundError:  # a run removed it since it was listed
                continue
            rows += table.num_rows
            _write_part(writer, table, run, path.name)
    return files, rows, tuple(damaged)


def _write_part(writer: pq.ParquetWriter, table: pa.Table, run: int, part: str) -> None:
    import pyarrow as pa

    count = table.num_rows
    table = table.append_column("run", pa.array([run] * count, pa.int64()))
    table = table.append_column("part", pa.array([part] * count, pa.string()))
    writer.write_table(table.select(_kept_schema().names).cast(_kept_schema()))


def _named_schema() -> pa.Schema:
    import pyarrow as pa

    text, flag = pa.string(), pa.bool_()
    kinds = {
        "id": text, "tenant": text, "doc_id": text, "revision": pa.int64(), "obsolete": flag, "reread": flag,
        "pending": pa.list_(text),
    }  # fmt: skip
    return pa.schema(list(kinds.items()))


def _kept_schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    kinds = {"id": text, "run": pa.int64(), "part": text, "lake_key": pa.binary(32), "acl": pa.list_(text)}
    return pa.schema(list(kinds.items()))
