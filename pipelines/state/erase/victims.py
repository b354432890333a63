"""What the state folder has of erased documents, found by reading all of it: chunk files and manifests.

Rows of runs that died, of old versions and of documents that left the collection long ago count too. What is found is
written to Parquet files in a work folder, and joined there: a tenant may have as many chunks as the collection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.state.batches import in_batches
from pipelines.state.chunks import ChunkFiles, read_columns
from pipelines.state.documents import DocumentKey
from pipelines.state.files import DamagedError
from pipelines.state.manifest import Manifest
from pipelines.state.paths import StatePaths
from pipelines.state.tables import duckdb_connection

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# (tenant, doc_id) -> the tombstone that it is under, or None.
Match = Callable[[str, str], str | None]
_BATCH = 8192
_NAMED = ("id", "tenant", "doc_id", "lake_key")
# Distinct rows first: that is what DuckDB can do on disk.
_DOCUMENTS = """
SELECT tombstone, count(*) FROM (
    SELECT tombstone, tenant, doc_id FROM read_parquet($rows)
    UNION SELECT tombstone, tenant, doc_id FROM read_parquet($documents)
) GROUP BY tombstone
"""
_CHUNKS = "SELECT tombstone, count(*) FROM (SELECT DISTINCT tombstone, id FROM read_parquet($rows)) GROUP BY tombstone"


@dataclass(frozen=True)
class Found:
    """Documents and chunks of one tombstone."""

    tombstone: str
    documents: int
    chunks: int


@dataclass(frozen=True)
class Victims:
    """Files in `folder`; ids, hashes and places only. `damaged`: chunk files that cannot be read."""

    folder: Path
    damaged: tuple[Path, ...]

    def found(self) -> list[Found]:
        """What there is of each tombstone, by its hash."""
        files = {"rows": str(self.rows_file), "documents": str(self.documents_file)}
        counts = [dict(row for batch in self._select(query, files) for row in batch) for query in (_DOCUMENTS, _CHUNKS)]
        return [Found(one, counts[0].get(one, 0), counts[1].get(one, 0)) for one in sorted({*counts[0], *counts[1]})]

    def chunk_ids(self) -> Iterator[list[str]]:
        """Ids of chunks that a store may hold, of any generation, ascending, in batches."""
        query = "SELECT DISTINCT id FROM read_parquet($rows) ORDER BY id"
        for batch in self._select(query, {"rows": str(self.rows_file)}):
            yield [row[0] for row in batch]

    def documents(self, generation: int) -> Iterator[list[DocumentKey]]:
        """Documents that the manifest of a generation names, in batches."""
        query = "SELECT tenant, doc_id FROM read_parquet($documents) WHERE generation = $generation"
        yield from self._select(query, {"documents": str(self.documents_file), "generation": generation})

    def chunk_files(self) -> list[Path]:
        """Chunk files that hold rows of them."""
        query = "SELECT DISTINCT file FROM read_parquet($rows) WHERE file <> '' ORDER BY file"
        return [Path(row[0]) for batch in self._select(query, {"rows": str(self.rows_file)}) for row in batch]

    @property
    def rows_file(self) -> Path:
        """Chunks: id, tenant, doc_id, lake_key (null where only a manifest names the chunk), file, tombstone."""
        return self.folder / "rows.parquet"

    @property
    def documents_file(self) -> Path:
        """Manifest rows: generation, tenant, doc_id, tombstone."""
        return self.folder / "documents.parquet"

    def _select(self, query: str, values: dict[str, Any]) -> Iterator[list[Any]]:
        with duckdb_connection(self.folder) as database:
            database.execute("SET preserve_insertion_order = true")
            used = {name: value for name, value in values.items() if f"${name}" in query}
            rows = database.execute(query, used)
            while batch := rows.fetchmany(_BATCH):
                yield batch


def find_victims(paths: StatePaths, generations: list[int], match: Match, folder: Path) -> Victims:
    """Read every chunk file and manifest of the generations. StateError if a manifest is damaged."""
    import pyarrow.parquet as pq

    made = Victims(folder, ())
    damaged: list[Path] = []
    with ExitStack() as stack:
        rows = stack.enter_context(pq.ParquetWriter(made.rows_file, _rows_schema()))
        documents = stack.enter_context(pq.ParquetWriter(made.documents_file, _documents_schema()))
        for number in generations:
            damaged += _of_chunk_files(paths, number, match, rows)
            _of_manifest(paths, number, match, rows, documents)
    return Victims(folder, tuple(damaged))


def erased_rows(table: pa.Table, match: Match) -> pa.Array:
    """The tombstone of each row of a table with the columns tenant and doc_id, null where there is none."""
    import pyarrow as pa

    pairs = list(zip(table.column("tenant").to_pylist(), table.column("doc_id").to_pylist(), strict=True))
    under = {pair: match(*pair) for pair in set(pairs)}
    return pa.array([under[pair] for pair in pairs], pa.string())


def _of_chunk_files(paths: StatePaths, generation: int, match: Match, rows: pq.ParquetWriter) -> list[Path]:
    import pyarrow as pa
    import pyarrow.compute as pc

    damaged: list[Path] = []
    for _, path in ChunkFiles(paths, generation).files():
        try:
            table = read_columns(path, _NAMED)
        except DamagedError:
            damaged.append(path)
            continue
        tombstones = erased_rows(table, match)
        table = table.append_column("file", pa.array([str(path)] * table.num_rows, pa.string()))
        kept = table.append_column("tombstone", tombstones).filter(pc.is_valid(tombstones))
        if kept.num_rows:
            rows.write_table(kept.select(_rows_schema().names).cast(_rows_schema()))
    return damaged


def _of_manifest(
    paths: StatePaths, generation: int, match: Match, rows: pq.ParquetWriter, documents: pq.ParquetWriter
) -> None:
    import pyarrow as pa

    records = (
        (record, tombstone)
        for record in Manifest(paths, generation).records(removed=True)
        if (tombstone := match(*record.key)) is not None
    )
    for batch in in_batches(records, _BATCH // 8):
        named = [
            {"generation": generation, "tenant": one.tenant, "doc_id": one.doc_id, "tombstone": tombstone}
            for one, tombstone in batch
        ]
        chunks = [
            {"id": name, "tenant": one.tenant, "doc_id": one.doc_id, "file": "", "tombstone": tombstone}
            for one, tombstone in batch
            for name in (*one.chunk_ids, *one.obsolete_chunk_ids)
        ]
        documents.write_table(pa.Table.from_pylist(named, schema=_documents_schema()))
        rows.write_table(pa.Table.from_pylist(chunks, schema=_rows_schema()))


def _rows_schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    kinds = {"id": text, "tenant": text, "doc_id": text, "lake_key": pa.binary(32), "file": text, "tombstone": text}
    return pa.schema(list(kinds.items()))


def _documents_schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"generation": pa.int32(), "tenant": pa.string(), "doc_id": pa.string(), "tombstone": pa.string()}
    return pa.schema(list(kinds.items()))
