"""Texts to encode: from the command line, from lines, from JSON lines or Parquet, each with an id and a place.

A text is taken as it is, an empty one too. What is wrong with one is a UsageError that names its line or row, and never
the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from m3core.errors import DocumentError, UsageError
from pipelines.ingest.documents import DocumentRules, check_doc_id
from pipelines.ingest.sources.files import LocalTree
from pipelines.ingest.sources.jsonl import JsonLinesSource
from pipelines.ingest.sources.parquet import ParquetSource
from pipelines.ingest.sources.records import RecordSource
from pipelines.ingest.values import check_characters, kind_of, parse_json

# `doc_id` is what ingestion calls it; `id` wins where both are.
ID_FIELDS = ("id", "doc_id")
TEXT_FIELD = "text"
MAX_TEXT_BYTES = 10 << 20
# No limit of our own on a whole file: it is read as a stream.
_MAX_FILE_BYTES = 1 << 60
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Text:
    """One text to encode. `id` is the record's; where there is none, the number of the line or text, from 1."""

    id: str
    text: str


@dataclass(frozen=True)
class Totals:
    """How much there is to encode."""

    texts: int
    text_bytes: int


@dataclass(frozen=True)
class Input:
    """Where texts come from. Each call of `read` reads them anew, except where `once` says that it cannot."""

    read: Callable[[], Iterator[Text]]
    once: bool = False

    def totals(self) -> Totals | None:
        """Read everything to the end, so that a fault in the last line is told before hours of work; None if `once`.

        Raises UsageError as `read`.
        """
        if self.once:
            return None
        texts = text_bytes = 0
        for one in self.read():
            texts += 1
            text_bytes += len(one.text.encode())
        return Totals(texts, text_bytes)


def from_arguments(texts: Sequence[str]) -> Input:
    """The values of `--text`, in their order."""

    def read() -> Iterator[Text]:
        for number, text in enumerate(texts, start=1):
            yield Text(str(number), _checked(text, f"--text {number}"))

    return Input(read)


def from_lines(stream: BinaryIO, name: str) -> Input:
    """Every line of a stream is a text, an empty one too, so that results stand beside their lines."""

    def read() -> Iterator[Text]:
        number = 0
        while line := stream.readline(MAX_TEXT_BYTES + 3):  # room for what ends a line, and for more
            number += 1
            yield Text(str(number), _line(line.removeprefix(_BOM) if number == 1 else line, f"{name} line {number}"))

    return Input(read, once=True)


def from_file(path: Path) -> Input:
    """The records of a `.jsonl` (plain, `.gz`, `.zst`) or `.parquet` file: `id` (or `doc_id`) and `text`.

    Raises UsageError if it is no such file; reading it raises UsageError for a record that is wrong.
    """
    name = path.name.lower()
    if not path.is_file():
        what = "no regular file" if path.exists() else "no such file"
        raise UsageError(f"{path}: {what}", "name a .jsonl or .parquet file, or give lines on stdin")
    if name.endswith(JsonLinesSource.extensions):
        return Input(lambda: _records(path, JsonLinesSource, _rules(ID_FIELDS[0])))
    if name.endswith(ParquetSource.extensions):
        rules = _rules(_id_column(path))
        return Input(lambda: _records(path, ParquetSource, rules))
    known = ", ".join(JsonLinesSource.extensions + ParquetSource.extensions)
    raise UsageError(f"{path}: its extension is not one of {known}", "rename it, or give plain lines on stdin")


def _rules(id_field: str) -> DocumentRules:
    return DocumentRules("encode", id_field=id_field, text_field=TEXT_FIELD, max_document_bytes=MAX_TEXT_BYTES)


def _records(path: Path, kind: type[RecordSource], rules: DocumentRules) -> Iterator[Text]:
    source = kind("encode", LocalTree(path), rules, _MAX_FILE_BYTES)
    file = path.resolve()  # a link may name it: whoever typed the path chose it
    try:
        for number, payload, size in source.records(file.name):
            if payload is None or payload.strip():
                yield _record(payload, size, f"{path} {source.unit} {number}")
    except DocumentError as error:
        raise UsageError(f"{path}: {error.message}", error.remedy) from None


def _record(payload: bytes | None, size: int, place: str) -> Text:
    if payload is None:
        raise UsageError(f"{place} has {size:,} bytes; a text has at most {MAX_TEXT_BYTES:,}", "split the text")
    try:
        record = parse_json(payload, "it")
        if not isinstance(record, dict):
            raise DocumentError(f"it is {kind_of(record)}; an object with id and text is needed", "correct it")
        return Text(_id(record), _text(record))
    except DocumentError as error:
        raise UsageError(f"{place}: {error.message}", error.remedy) from None


def _id(record: dict[str, Any]) -> str:
    for name in ID_FIELDS:
        if record.get(name) is not None:
            return check_doc_id(record[name], name)
    raise DocumentError(f"{' and '.join(ID_FIELDS)} are missing", "give every text an id")


def _text(record: dict[str, Any]) -> str:
    text = record.get(TEXT_FIELD)
    if text is None:
        raise DocumentError("text is missing", "give every record a text, an empty one if need be")
    if not isinstance(text, str):
        raise DocumentError(f"text is {kind_of(text)}; a string is needed", "give the text as a string")
    check_characters(text, TEXT_FIELD)
    return text


def _line(line: bytes, place: str) -> str:
    bare = line.removesuffix(b"\n").removesuffix(b"\r")
    if len(bare) > MAX_TEXT_BYTES:
        raise UsageError(f"{place} has more than {MAX_TEXT_BYTES:,} bytes", "split it")
    try:
        text = bare.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is not UTF-8 at byte {error.start}", "convert the input to UTF-8") from None
    return _checked(text, place)


def _checked(text: str, place: str) -> str:
    try:
        check_characters(text, "the text")
    except DocumentError as error:
        raise UsageError(f"{place}: {error.message}", error.remedy) from None
    return text


def _id_column(path: Path) -> str:
    """The column that identifies the rows of a Parquet file; its text column is there too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        raise UsageError(f"{path}: damaged or no Parquet file", "write or fetch the file again") from None
    found = next((name for name in ID_FIELDS if names.count(name) == 1), None)
    if found is None or names.count(TEXT_FIELD) != 1:
        raise UsageError(
            f"{path}: it needs one column {' or '.join(ID_FIELDS)} and one column {TEXT_FIELD}; its columns: "
            f"{', '.join(names[:12])}",
            "rename its columns",
        )
    return found
