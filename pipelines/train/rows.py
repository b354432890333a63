"""Rows to train on, from FlagEmbedding's JSON lines or from Parquet pairs, each with its place; broken ones counted.

JSON lines   query, pos [], neg [], pos_scores [], neg_scores [], prompt, type
Parquet      query, positive (or pos), negative, negatives, negative_1, negative_2, ... (or neg); each a string or a
             list; the other columns as above
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3core.errors import DocumentError, TrainingError, UsageError
from m3core.train.folding import folded
from pipelines.ingest.documents import DocumentRules
from pipelines.ingest.sources.files import LocalTree
from pipelines.ingest.sources.jsonl import JsonLinesSource
from pipelines.ingest.sources.parquet import ParquetSource
from pipelines.ingest.values import check_characters, kind_of, parse_json
from pipelines.state.files import sha256_of

if TYPE_CHECKING:
    from m3core.train.examples import Row

MAX_ROW_BYTES = 32 << 20
SUFFIXES = JsonLinesSource.extensions + ParquetSource.extensions
_NAMED = 5
_BATCH_ROWS = 1024
_NO_LIMIT = 1 << 60
_NEGATIVE = re.compile(r"negatives?(_?\d+)?")


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that cannot be used: its place and why, never its text."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of training data, for the record: its name without folders, its hash, the rows used."""

    name: str
    sha256: str
    rows: int


@dataclass
class Reading:
    """What the files held."""

    rows: list[Row] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    files: list[DataFile] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What was left out, a line per kind, the first few named."""
        lines = []
        if self.broken:
            named = [f"{each.place} ({each.reason})" for each in self.broken]
            lines.append(f"{len(self.broken):,} broken rows, left out: {shortened(named)}")
        if self.duplicates:
            lines.append(f"{len(self.duplicates):,} rows that came before, left out: {shortened(self.duplicates)}")
        return lines


def shortened(names: Sequence[str], most: int = _NAMED) -> str:
    """The first few names, and dots if there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def read_rows(paths: Sequence[Path], max_bad: int) -> Reading:
    """Read every file.

    Raises UsageError if one cannot be read, TrainingError if more than `max_bad` rows are broken or none is good.
    """
    reading = Reading()
    seen: set[bytes] = set()
    for path in paths:
        before = len(reading.rows)
        for place, record in _records(path):
            try:
                row = row_of(record, place)
            except DocumentError as error:
                reading.broken.append(Broken(place, error.message))
                continue
            key = _digest(row)
            if key in seen:
                reading.duplicates.append(place)
            else:
                seen.add(key)
                reading.rows.append(row)
        reading.files.append(DataFile(path.name, sha256_of(path), len(reading.rows) - before))
    if len(reading.broken) > max_bad:
        total = len(reading.rows) + len(reading.broken) + len(reading.duplicates)
        named = shortened([f"{each.place} ({each.reason})" for each in reading.broken], 3)
        raise TrainingError(
            f"{len(reading.broken):,} of {total:,} rows are broken, at most {max_bad:,} may be: {named}",
            f"correct them, or leave them out with --max-bad-rows {len(reading.broken)}",
        )
    if not reading.rows:
        raise TrainingError(
            f"{', '.join(path.name for path in paths)}: no row to train on", "give rows with query and pos"
        )
    return reading


def row_of(record: object, place: str) -> Row:
    """A row from its fields. Raises DocumentError, which says what is wrong with it."""
    from m3core.train.examples import ROW_TYPES, Row

    if isinstance(record, DocumentError):
        raise record
    if not isinstance(record, Mapping):
        raise DocumentError(f"it is {kind_of(record)}; an object is needed")
    positives, negatives = _texts(record, "pos"), _texts(record, "neg")
    if not positives:
        raise DocumentError("pos is missing")
    if set(map(folded, positives)) & set(map(folded, negatives)):
        raise DocumentError("a passage is in pos and in neg")
    scores = _scores(record, len(positives), len(negatives))
    kind = record.get("type") or ROW_TYPES[0]
    if kind not in ROW_TYPES:
        raise DocumentError(f"type is none of {', '.join(ROW_TYPES)}")
    prompt = record.get("prompt")
    return Row(
        query=_text(record.get("query"), "query"),
        positives=tuple(dict.fromkeys(positives)),
        negatives=tuple(dict.fromkeys(negatives)),
        positive_scores=_of_first(positives, scores["pos_scores"]),
        negative_scores=_of_first(negatives, scores["neg_scores"]),
        prompt=None if prompt is None else _string(prompt, "prompt"),
        type=kind,
        place=place,
    )


def _scores(record: Mapping[str, Any], positives: int, negatives: int) -> dict[str, tuple[float, ...]]:
    """A teacher's scores, one a passage as they are given; none where there is no teacher."""
    given = {name: record.get(name) for name in ("pos_scores", "neg_scores")}
    if all(value is None for value in given.values()):
        return {"pos_scores": (), "neg_scores": ()}
    if given["neg_scores"] is None and not negatives:
        given["neg_scores"] = []
    for (name, value), wanted in zip(given.items(), (positives, negatives), strict=True):
        if not isinstance(value, list | tuple) or len(value) != wanted or not all(map(_is_score, value)):
            raise DocumentError(f"{name} is not a list of {wanted} finite numbers, one a passage")
    return {name: tuple(map(float, value or ())) for name, value in given.items()}


def _is_score(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def _of_first(texts: Sequence[str], scores: Sequence[float]) -> tuple[float, ...]:
    """The scores of distinct texts: of a repeated one, the first."""
    first = dict(zip(reversed(texts), reversed(scores), strict=True)) if scores else {}
    return tuple(first[text] for text in dict.fromkeys(texts)) if scores else ()


def _texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = record.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise DocumentError(f"{name} is {kind_of(value)}; a list of strings is needed")
    return tuple(_text(each, name) for each in value)


def _text(value: object, name: str) -> str:
    text = _string(value, name)
    if not text or text.isspace():
        raise DocumentError(f"{name} is empty")
    return text


def _string(value: object, name: str) -> str:
    if value is None:
        raise DocumentError(f"{name} is missing")
    if not isinstance(value, str):
        raise DocumentError(f"{name} is {kind_of(value)}; a string is needed")
    check_characters(value, name)
    return value


def _digest(row: Row) -> bytes:
    parts = [row.query, row.prompt, row.type, sorted(row.positives), sorted(row.negatives)]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _records(path: Path) -> Iterator[tuple[str, object]]:
    """(place, fields) of each row; a DocumentError in place of the fields of one that cannot be parsed."""
    name = path.name.lower()
    if not path.is_file():
        raise UsageError(f"{path}: {'no regular file' if path.exists() else 'no such file'}", "name a file of rows")
    if name.endswith(ParquetSource.extensions):
        yield from _parquet(path)
    elif name.endswith(JsonLinesSource.extensions):
        yield from _json_lines(path)
    else:
        raise UsageError(f"{path}: its extension is not one of {', '.join(SUFFIXES)}", "rename it")


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    rules = DocumentRules("train", max_document_bytes=MAX_ROW_BYTES)
    source = JsonLinesSource("train", LocalTree(path), rules, _NO_LIMIT)
    file = path.resolve()  # a link may name it: whoever typed the path chose it
    try:
        for number, payload, size in source.records(file.name):
            place = f"{path.name}:{number}"
            if payload is None:
                yield place, DocumentError(f"it has {size:,} bytes; a row has at most {MAX_ROW_BYTES:,}")
            elif payload.strip():
                yield place, _parsed(payload)
    except DocumentError as error:
        raise UsageError(f"{path}: {error.message}", error.remedy) from None


def _parsed(payload: bytes) -> object:
    try:
        return parse_json(payload, "it")
    except DocumentError as error:
        return error


def _parquet(path: Path) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = _columns(names)
            if "query" not in columns or "pos" not in columns.values():
                raise UsageError(
                    f"{path}: columns are {shortened(names, 12)}; query and positive are needed", "rename its columns"
                )
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path.name}:{number}", _record(values, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise UsageError(f"{path}: damaged or no Parquet file", "write or fetch the file again") from None


def _columns(names: Sequence[str]) -> dict[str, str]:
    """Columns that are read -> the field that they are, or are part of."""
    known = {name: name for name in ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type")}
    known |= {"positive": "pos"} | {name: "neg" for name in names if _NEGATIVE.fullmatch(name)}
    return {name: known[name] for name in names if name in known}


def _record(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any] | DocumentError:
    """The fields of a row; columns of one field are put together, empty ones left out."""
    record: dict[str, Any] = {}
    for name, value in values.items():
        known = columns[name]
        if known not in ("pos", "neg"):
            record[known] = value
        elif isinstance(value, str | list | tuple):
            record.setdefault(known, []).extend([value] if isinstance(value, str) else value)
        elif value is not None:
            return DocumentError(f"{name} is {kind_of(value)}; a string or a list of strings is needed")
    return record
