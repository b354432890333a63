"""How one collection lies in Milvus: collections, columns, and what they say of themselves.

The main collection has one record per row:

id         the chunk's id, the primary key
revision   the run that wrote the row
tenant, doc_id, language, title, acl, f0..    what filters name, as keys (`values.py`)
payload    the row as it was written, compressed; only where the store keeps the text
dense      fp32 of the fp16 that the row has, FLAT: every search is exact
lexical    sparse, fp32 weights
vectors    how many multi-vectors the row has
multi      on a server: the multi-vectors, an array of structs of one fp16 vector each (`structs.py`); Milvus Lite drops
           such a column silently, so there they lie in a second collection, `.._parts` (`parts.py`)
unused     a vector that means nothing: every collection of Milvus needs one
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from connectors.description import check_same, describe
from connectors.milvus.parts import PART_BYTES
from connectors.milvus.structs import ANNS_FIELD, SUB_FIELD
from connectors.milvus.values import DIGEST_LENGTH, columns_of, holds_text
from connectors.protocol import Capabilities, CollectionSchema, FieldType
from m3core.errors import StoreError
from m3core.types import Signal

PROPERTY = "threefold"
UNUSED = "unused"
# Rows with more vectors are refused: servers take no more into one array of structs, and the parts of one row should
# fit into one request.
MAX_VECTORS = 4096
# The longest text that Milvus keeps, in bytes; ours are ASCII.
LONGEST = 65_535
# Columns of one collection of a server that nobody configured otherwise.
_MOST_COLUMNS = 64


class Layout(StrEnum):
    """How multi-vectors lie; what the server is decides it."""

    PACKED = "packed"
    STRUCTS = "structs"


# Versions of what this module writes.
_FORMATS = {Layout.PACKED: 1, Layout.STRUCTS: 2}


@dataclass(frozen=True)
class Column:
    """A column: its name, the name of its pymilvus DataType, and the longest text, the width of its vector or the most
    structs; `of`: the fields of each struct."""

    name: str
    type: str
    size: int = 0
    of: tuple[Column, ...] = ()

    def __str__(self) -> str:
        size = f"({self.size})" if self.size else ""
        return f"{self.type}{size}" + (f" of {', '.join(f'{each.name} {each}' for each in self.of)}" if self.of else "")


@dataclass(frozen=True)
class Index:
    """An index of one vector column, `a[b]` for a struct's field."""

    column: str
    type: str
    metric: str = "IP"
    params: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """Letters, digits and _ only: names of indexes have no brackets."""
        return self.column.replace("[", "_").removesuffix("]")


@dataclass(frozen=True)
class Collection:
    """One collection of the server: its name, its columns (the first is the primary key) and its vectors' indexes."""

    name: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]


def milvus_capabilities(schema: CollectionSchema) -> Capabilities:
    """Every signal, exactly; only `search(multi)` on a server finds its candidates by a graph. Nothing fences: Milvus
    takes whatever comes last."""
    return Capabilities(
        signals=schema.signals,
        keeps_text=schema.keeps_text,
        fences=False,
        patches_in_place=True,
        exact=True,
        max_vectors_per_row=MAX_VECTORS,
        embedded=False,
    )


def parts_name(name: str) -> str:
    """The collection beside `name` that holds the multi-vectors."""
    return f"{name}_parts"


def collections_of(schema: CollectionSchema, name: str, layout: Layout) -> tuple[Collection, ...]:
    """What a collection is on the server: the main one, and one of parts where it keeps packed multi-vectors."""
    main = _main(schema, name, layout)
    if Signal.MULTI not in schema.signals or layout is Layout.STRUCTS:
        return (main,)
    columns = (
        Column("id", "VARCHAR", 48),
        Column("chunk", "VARCHAR", 36),
        Column("packed", "VARCHAR", 4 * PART_BYTES // 3),
        Column(UNUSED, "FLOAT_VECTOR", 2),
    )
    return (main, Collection(parts_name(name), columns, (Index(UNUSED, "FLAT"),)))


def _main(schema: CollectionSchema, name: str, layout: Layout) -> Collection:
    columns = [Column("id", "VARCHAR", 36), Column("revision", "INT64"), Column("acl", "VARCHAR", LONGEST)]
    columns += [Column(each, "VARCHAR", DIGEST_LENGTH) for each in ("tenant", "doc_id", "language", "title")]
    columns += [_field_column(column, schema.fields[field]) for field, column in columns_of(schema.fields).items()]
    if schema.keeps_text:
        columns.append(Column("payload", "VARCHAR", LONGEST))
    if Signal.MULTI in schema.signals:
        columns.append(Column("vectors", "INT64"))
    vectors: list[tuple[Column, Index]] = []
    if Signal.DENSE in schema.signals:
        vectors.append((Column(Signal.DENSE, "FLOAT_VECTOR", schema.dense_dim), Index(Signal.DENSE, "FLAT")))
    if Signal.LEXICAL in schema.signals:
        sparse = Index(Signal.LEXICAL, "SPARSE_INVERTED_INDEX")
        vectors.append((Column(Signal.LEXICAL, "SPARSE_FLOAT_VECTOR"), sparse))
    if not vectors:  # that of a struct may not count as one
        vectors.append((Column(UNUSED, "FLOAT_VECTOR", 2), Index(UNUSED, "FLAT")))
    if Signal.MULTI in schema.signals and layout is Layout.STRUCTS:
        each = Column(SUB_FIELD, "FLOAT16_VECTOR", schema.multi_dim)
        structs = Column(Signal.MULTI, "ARRAY", MAX_VECTORS, (each,))
        vectors.append((structs, Index(ANNS_FIELD, "HNSW", "MAX_SIM_IP", (("M", 16), ("efConstruction", 200)))))
    columns += [column for column, _ in vectors]
    if len(columns) > _MOST_COLUMNS:
        raise StoreError(
            f"{len(schema.fields)} declared fields make {len(columns)} columns, and Milvus takes {_MOST_COLUMNS}",
            "declare fewer fields, or keep this signal in another store",
        )
    return Collection(name, tuple(columns), tuple(index for _, index in vectors))


def _field_column(column: str, kind: FieldType) -> Column:
    if not holds_text(kind):
        return Column(column, "INT64")
    return Column(column, "VARCHAR", LONGEST if kind is FieldType.STRINGS else DIGEST_LENGTH)


def description(schema: CollectionSchema, layout: Layout) -> str:
    """What the collections were made for, as kept in a property of each."""
    return json.dumps(describe(schema, _FORMATS[layout]))


def check_description(found: str, schema: CollectionSchema, layout: Layout, store: str, name: str) -> None:
    """Raise StoreError unless an existing collection says that this module made it for `schema`."""
    try:
        was = json.loads(found)
    except ValueError:
        was = None
    if not isinstance(was, dict):
        raise StoreError(
            f"store {store!r}: the collection {name} was not made by threefold", "set a prefix of its own for the store"
        )
    check_same(was, describe(schema, _FORMATS[layout]), f"store {store!r}: {name}")


def check_columns(found: Mapping[str, Column], wanted: Collection, store: str) -> None:
    """Raise StoreError unless the server has every column as it was asked for: some drop silently what they lack."""
    for column in wanted.columns:
        if (there := found.get(column.name)) != column:
            raise StoreError(
                f"store {store!r}: {wanted.name} has for column {column.name} {there or 'nothing'}, not {column}",
                "drop the collection if it was changed by hand; else the server does not support it",
            )
