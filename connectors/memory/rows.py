"""Where memory stores live: one table of rows per (folder, physical name), for as long as the process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from connectors.filters.check import check_field_names
from connectors.protocol import CollectionSchema, Patch, StoreOptions
from m3core.errors import StoreError
from m3core.types import Row


@dataclass
class MemoryRows:
    """The rows of one generation, by chunk id."""

    schema: CollectionSchema
    rows: dict[str, Row] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def upsert(self, rows: Sequence[Row]) -> None:
        with self.lock:
            self.rows.update((row.chunk.id, row) for row in rows)

    def delete(self, ids: Sequence[str]) -> None:
        with self.lock:
            for chunk_id in ids:
                self.rows.pop(chunk_id, None)

    def patch(self, patches: Sequence[Patch]) -> None:
        with self.lock:
            for patch in patches:
                if (row := self.rows.get(patch.id)) is not None:
                    chunk = replace(row.chunk, metadata=patch.metadata, acl=patch.acl)
                    self.rows[patch.id] = replace(row, chunk=chunk, revision=patch.revision)

    def ordered(self) -> list[Row]:
        """All rows, ascending by id."""
        with self.lock:
            return [row for _, row in sorted(self.rows.items())]


_tables: dict[tuple[Path, str], MemoryRows] = {}
_tables_lock = threading.Lock()


def create_rows(options: StoreOptions, schema: CollectionSchema) -> MemoryRows:
    """The table of this store, made if it is missing; StoreError if it was made for another schema."""
    check_field_names(schema.fields)
    with _tables_lock:
        table = _tables.setdefault(_key(options), MemoryRows(schema))
    return _of_schema(table, options, schema)


def has_rows(options: StoreOptions, schema: CollectionSchema) -> bool:
    """Whether the table of this store is there; StoreError if it was made for another schema."""
    table = _tables.get(_key(options))
    return table is not None and _of_schema(table, options, schema) is table


def find_rows(options: StoreOptions) -> MemoryRows:
    """The table of this store; StoreError if nothing in this process has made it."""
    table = _tables.get(_key(options))
    if table is None:
        raise StoreError(
            f"store {options.name!r}: no {options.schema.physical_name} in this process",
            'a memory store is gone when its process ends; use kind = "qdrant-edge" to keep rows',
        )
    return table


def drop_rows(options: StoreOptions) -> None:
    """Forget the table of this store, if there is one."""
    with _tables_lock:
        _tables.pop(_key(options), None)


def _of_schema(table: MemoryRows, options: StoreOptions, schema: CollectionSchema) -> MemoryRows:
    if table.schema != schema:
        raise StoreError(
            f"store {options.name!r}: {schema.physical_name} exists with another schema", "build a new generation"
        )
    return table


def _key(options: StoreOptions) -> tuple[Path, str]:
    return options.root.absolute(), options.schema.physical_name
