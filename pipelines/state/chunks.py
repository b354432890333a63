"""Chunk files: text, place and metadata of every chunk of a generation, and which lake row holds its vectors.

`chunks/g<generation>/<run>/<wave>-<part>.parquet`, kind `threefold.chunks`, format 1 (`tables.py`). Rows ascend by id:

    id, tenant, doc_id   string
    ordinal              int32    place in the document
    text, context        string   exact body, and the headings above it; the encoded text is `context`, a line feed and
                                  `text`, or `text` alone where context is empty
    span_start, span_end int64    code points of the document's text
    token_count          int32
    title, language      string
    metadata             string   JSON object, sorted keys, no white space, ASCII; values are text, numbers, true or
                                  false, lists of text
    acl                  list of string
    lake_key             32 bytes

Part of a wave is what one step wrote; writing it again replaces it. A chunk whose metadata or acl changes gets a new
row in that run. What counts is the row of the run that the manifest names as the document's `revision`: rows of a run
that died before its commit are never taken for the truth, and only the files of that run are read. Where there is no
manifest, the newest row by (run, wave) counts.

`chunks/g<generation>/<run>/unsettled`, empty, is there from before the run's first file until manifest and stores agree
about all of them. Where it is left, the run died: stores may hold rows that the manifest does not know of.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3core.errors import StateError
from m3core.types import Chunk, Metadata
from pipelines.state.documents import DocumentKey
from pipelines.state.files import canonical_json, create_if_absent, make_folder, remove_files
from pipelines.state.mirror import refresh
from pipelines.state.paths import StatePaths
from pipelines.state.tables import TableKind, open_table, reading, write_table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_KIND = TableKind("threefold.chunks", 1, rows_per_group=1024)
_PART = re.compile(r"[a-z0-9-]{1,64}")
_UNSETTLED = "unsettled"


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk and where its vectors are. `run` is the run that wrote the row; it is set by reading."""

    chunk: Chunk
    lake_key: str
    run: int = 0


class ChunkFiles:
    """Chunks of one generation. Any number of processes may write parts at once."""

    def __init__(self, paths: StatePaths, generation: int) -> None:
        self._folder = paths.chunks(generation)

    def write(self, run: int, wave: int, part: str, rows: Sequence[ChunkRow]) -> None:
        """One durable file of the wave; the same part again replaces it. `part` is [a-z0-9-]{1,64}."""
        if not _PART.fullmatch(part):
            raise StateError(f"{part!r} is no name for a part of a wave (a-z, 0-9 and -, at most 64)")
        folder = self._run(run)
        make_folder(folder)
        if not (folder / _UNSETTLED).exists():
            create_if_absent(folder / _UNSETTLED, b"")
        write_table(folder / f"{wave:05d}-{part}.parquet", _KIND, chunk_schema(), [_table(rows)])

    def read(self, chunk_ids: Collection[str], revisions: Mapping[str, int] | None = None) -> Iterator[ChunkRow]:
        """Rows of the ids that exist, in no order. With `revisions` (chunk id -> revision of its document in the
        manifest) only the row that this run wrote counts, and only that run's files are read; without, the newest.

        DamagedError if a file that may hold one of them cannot be read.
        """
        if revisions is None:
            wanted = set(chunk_ids)
            for run in self.runs(newest_first=True):
                yield from self._read_run(run, wanted)
            return
        by_run: dict[int, set[str]] = {}
        for chunk_id in set(chunk_ids):
            by_run.setdefault(revisions[chunk_id], set()).add(chunk_id)
        for run, wanted in sorted(by_run.items()):
            yield from self._read_run(run, wanted)

    def runs(self, *, newest_first: bool = False) -> list[int]:
        """Runs that wrote chunks."""
        if not self._folder.exists():
            return []
        return sorted((int(path.name) for path in self._folder.iterdir() if path.name.isdigit()), reverse=newest_first)

    def files(self) -> Iterator[tuple[int, Path]]:
        """Every file with its run; within a run a later file is of a later wave, or another part of the same."""
        for run in self.runs():
            yield from ((run, path) for path in self._files(run))

    def unsettled(self, before: int) -> list[int]:
        """Runs before this one that died before manifest and stores agreed about the chunks that they wrote."""
        return [run for run in self.runs() if run < before and (self._run(run) / _UNSETTLED).exists()]

    def settle(self, run: int) -> None:
        """Manifest and stores agree about what this run wrote, or the manifest says where they do not."""
        if (self._run(run) / _UNSETTLED).exists():
            remove_files([self._run(run) / _UNSETTLED])

    def owners(self, run: int, after_wave: int) -> Iterator[list[tuple[str, DocumentKey]]]:
        """Ids and documents of the rows that a run wrote after this wave, a file at a time. DamagedError."""
        for path in self._files(run):
            if int(path.name.partition("-")[0]) > after_wave:
                rows = read_columns(path, ["id", "tenant", "doc_id"]).to_pylist()
                yield [(row["id"], (row["tenant"], row["doc_id"])) for row in rows]

    def _run(self, run: int) -> Path:
        return self._folder / f"{run:06d}"

    def _files(self, run: int) -> list[Path]:
        refresh(self._run(run), "*.parquet")
        return sorted(self._run(run).glob("[0-9]*.parquet"))

    def _read_run(self, run: int, wanted: set[str]) -> Iterator[ChunkRow]:
        """Rows of one run, the newest wave first; what was found is taken out of `wanted`."""
        near = sorted(wanted)
        for path in reversed(self._files(run)):
            if not wanted:
                return
            file = open_table(path, _KIND, chunk_schema())
            with reading(path):
                rows = [row for group in _groups_with(file, near) for row in _rows(file, group, wanted, run)]
            wanted.difference_update(row.chunk.id for row in rows)
            yield from rows


def read_keys(path: Path) -> pa.Table:
    """Columns id, lake_key and acl of one file, every page verified first. DamagedError, FileNotFoundError."""
    return read_columns(path).select(["id", "lake_key", "acl"])


def read_columns(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Some columns of one file, or all; only their pages are read. DamagedError, FileNotFoundError."""
    file = open_table(path, _KIND, chunk_schema())
    with reading(path):
        return file.read(None if columns is None else list(columns))


def keep_rows(path: Path, kept: pa.Array) -> None:
    """Write one file anew with the rows where `kept` is true; without any it is removed. Under the lease."""
    rows = read_columns(path).filter(kept)
    if rows.num_rows:
        write_table(path, _KIND, chunk_schema(), [rows])
    else:
        remove_files([path])


def _groups_with(file: pq.ParquetFile, wanted: Sequence[str]) -> Iterator[int]:
    """Row groups whose range of ids may hold one of `wanted`, ascending."""
    for group in range(file.metadata.num_row_groups):
        bounds = file.metadata.row_group(group).column(0).statistics
        if bounds is None or not bounds.has_min_max:  # ids too long for them
            yield group
            continue
        at = bisect.bisect_left(wanted, bounds.min)
        if at < len(wanted) and wanted[at] <= bounds.max:
            yield group


def _rows(file: pq.ParquetFile, group: int, wanted: set[str], run: int) -> Iterator[ChunkRow]:
    """Rows of a group that are wanted; texts are only read where there are any."""
    import pyarrow as pa

    ids = file.read_row_group(group, ["id"]).column("id").to_pylist()
    places = [place for place, chunk_id in enumerate(ids) if chunk_id in wanted]
    if places:
        table = file.read_row_group(group).take(pa.array(places))
        yield from (_row(values, run) for values in table.to_pylist())


def _row(values: dict[str, Any], run: int) -> ChunkRow:
    span = values.pop("span_start"), values.pop("span_end")
    lake_key = values.pop("lake_key").hex()
    metadata = metadata_of(values.pop("metadata"))
    acl = tuple(values.pop("acl"))
    return ChunkRow(Chunk(span=span, metadata=metadata, acl=acl, **values), lake_key, run)


def metadata_of(text: str) -> Metadata:
    """Metadata from its JSON; lists become tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}


def _table(rows: Sequence[ChunkRow]) -> pa.Table:
    import pyarrow as pa

    values = [
        {
            "id": row.chunk.id,
            "tenant": row.chunk.tenant,
            "doc_id": row.chunk.doc_id,
            "ordinal": row.chunk.ordinal,
            "text": row.chunk.text,
            "context": row.chunk.context,
            "span_start": row.chunk.span[0],
            "span_end": row.chunk.span[1],
            "token_count": row.chunk.token_count,
            "title": row.chunk.title,
            "language": row.chunk.language,
            "metadata": canonical_json(dict(row.chunk.metadata)).decode(),
            "acl": list(row.chunk.acl),
            "lake_key": bytes.fromhex(row.lake_key),
        }
        for row in sorted(rows, key=lambda row: row.chunk.id)
    ]
    return pa.Table.from_pylist(values, schema=chunk_schema())


def chunk_schema() -> pa.Schema:
    """The columns."""
    import pyarrow as pa

    text = pa.string()
    kinds = {
        "id": text, "tenant": text, "doc_id": text, "ordinal": pa.int32(), "text": text, "context": text,
        "span_start": pa.int64(), "span_end": pa.int64(), "token_count": pa.int32(), "title": text, "language": text,
        "metadata": text, "acl": pa.list_(text), "lake_key": pa.binary(32),
    }  # fmt: skip
    return pa.schema(list(kinds.items()))
