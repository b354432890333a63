"""What lies at a path: `m3 init` looks here before it writes a configuration, with the eyes of the sources."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from m3core.errors import DocumentError, UsageError
from pipelines.cli.columns import Columns, guess_columns

SourceKind = Literal["folder", "jsonl", "parquet"]

# A larger tree is counted up to here; its kind is clear by then.
MAX_ENTRIES = 200_000
_ROWS_READ = 500
_BYTES_READ = 1 << 40
_NAME_IT = "name the folder with your documents: m3 init ./docs"


@dataclass(frozen=True)
class Found:
    """One source that can be ingested: its files counted by extension, and those beside them that it leaves out."""

    kind: SourceKind
    path: Path
    extensions: Mapping[str, int]
    others: int = 0
    columns: Columns | None = None


def survey(path: Path) -> list[Found]:
    """The sources at `path`: a file of records, a folder of texts, else the files of records in it, by kind.

    Raises UsageError if there is nothing that can be ingested, and says what is there instead.
    """
    if path.is_file():
        return [_single(path)]
    if not path.is_dir():
        problem = "neither a file nor a folder" if path.exists() else "no such file or folder"
        raise UsageError(f"{path}: {problem}", _NAME_IT)
    by_kind, others = _files(path)
    folder, records = by_kind.pop("folder"), {kind: names for kind, names in by_kind.items() if names}
    if folder:
        left_out = others.total() + sum(map(len, records.values()))
        return [Found("folder", path, Counter(map(_extension, folder)), left_out)]
    if not records:
        raise UsageError(_nothing(path, others), "name a folder with .md or .txt files, or a .jsonl or .parquet file")
    return [_records(kind, path, names) for kind, names in records.items()]


def _extensions() -> dict[SourceKind, tuple[str, ...]]:
    from pipelines.ingest.sources.folder import MARKDOWN, PLAIN
    from pipelines.ingest.sources.jsonl import JsonLinesSource
    from pipelines.ingest.sources.parquet import ParquetSource

    return {
        "folder": MARKDOWN + PLAIN,
        "jsonl": JsonLinesSource.extensions,
        "parquet": ParquetSource.extensions,
    }


def _files(folder: Path) -> tuple[dict[SourceKind, list[str]], Counter[str]]:
    """Paths below `folder` that a source would read, by kind, and the extensions of other files."""
    from pipelines.ingest.sources.files import LocalTree
    from pipelines.ingest.sources.protocol import SkipKind
    from pipelines.ingest.sources.tree import Found as File

    known = _extensions()
    found: dict[SourceKind, list[str]] = {kind: [] for kind in known}
    others: Counter[str] = Counter()
    everything = tuple(extension for extensions in known.values() for extension in extensions)
    for entry in itertools.islice(LocalTree(folder).walk(everything), MAX_ENTRIES):
        if isinstance(entry, File):
            found[_kind_of(entry.path)].append(entry.path)
        elif entry.kind is SkipKind.UNSUPPORTED:
            others[_extension(entry.path) or "without extension"] += 1
    return found, others


def _kind_of(path: str) -> SourceKind:
    return next(kind for kind, extensions in _extensions().items() if path.lower().endswith(extensions))


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _nothing(path: Path, others: Counter[str]) -> str:
    if not others:
        return f"{path} has no files (hidden ones and links do not count)"
    common = ", ".join(f"{count:,} {extension}" for extension, count in others.most_common(4))
    return f"{path} has nothing that can be ingested; its files: {common}"


def _single(file: Path) -> Found:
    known = _extensions()
    if file.name.lower().endswith(known["jsonl"] + known["parquet"]):
        return _records(_kind_of(file.name), file.parent, [file.name])
    remedy = "name its folder, or a .jsonl or .parquet file"
    raise UsageError(f"{file}: {file.suffix or 'no extension'} is no file of records", remedy)


def _records(kind: SourceKind, folder: Path, names: list[str]) -> Found:
    """Files of records as one source. The first file stands for the others."""
    file = folder / names[0]
    rows = _json_rows(folder, names[0]) if kind == "jsonl" else _parquet_rows(file)
    if not rows:
        raise UsageError(f"{file}: no rows in it", "name a file with at least one document")
    columns = guess_columns(rows)
    if columns is None:
        fields = ", ".join(list(rows[0])[:12])
        raise UsageError(
            f"{file}: no field that identifies a document, or none with its text, among: {fields}",
            "give every row a unique doc_id and a text",
        )
    path = folder if len(names) > 1 else file
    return Found(kind, path, Counter(map(_extension, names)), columns=columns)


def _json_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The objects on the first lines; a line that is none is the ingest's to report."""
    from pipelines.ingest.documents import DocumentRules
    from pipelines.ingest.sources.files import LocalTree
    from pipelines.ingest.sources.jsonl import JsonLinesSource

    source = JsonLinesSource("init", LocalTree(folder), DocumentRules(tenant="init"), _BYTES_READ)
    rows = []
    try:
        for _, line, _ in itertools.islice(source.records(name), _ROWS_READ):
            row = _object(line)
            if row is not None:
                rows.append(row)
    except DocumentError as error:
        if not rows:
            raise UsageError(f"{folder / name}: {error.message}", error.remedy) from None
    return rows


def _object(line: bytes | None) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _parquet_rows(file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            batch = next(parquet.iter_batches(batch_size=_ROWS_READ), None)
            return batch.to_pylist() if batch is not None else []
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UsageError(f"{file}: no readable Parquet ({reason})", "check the file; copy it again") from None
