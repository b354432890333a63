"""A store that only counts: id, revision and acl of every row, in an SQLite file, so that memory says nothing of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence

import pytest

from connectors import registry
from connectors.filters.tree import Filter
from connectors.memory.sink import memory_capabilities
from connectors.protocol import Capabilities, CollectionSchema, Patch, Payload, StoreOptions, WriteResult
from m3core.types import Row

KIND = "counting"
_BATCH = 10_000


class CountingStore:
    """Sink and searcher. Like a server it shows what is written at once."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        options.root.mkdir(parents=True, exist_ok=True)
        name = options.root / f"{options.schema.physical_name}.sqlite"
        self._rows = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA synchronous = OFF")

    @property
    def capabilities(self) -> Capabilities:
        return memory_capabilities(self._options.schema)

    def ensure(self, schema: CollectionSchema) -> None:
        self._rows.execute(
            "CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, revision INT, acl TEXT) WITHOUT ROWID"
        )

    def write(self, rows: Sequence[Row]) -> WriteResult:
        values = [(row.chunk.id, row.revision, json.dumps(row.chunk.acl)) for row in rows]
        self._change("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", values)
        return WriteResult(len(rows))

    def delete(self, ids: Sequence[str]) -> None:
        self._change("DELETE FROM rows WHERE id = ?", [(name,) for name in ids])

    def patch(self, patches: Sequence[Patch]) -> None:
        values = [(patch.revision, json.dumps(patch.acl), patch.id) for patch in patches]
        self._change("UPDATE rows SET revision = ?, acl = ? WHERE id = ?", values)

    def scan(self) -> Iterator[tuple[str, int]]:
        rows = self._rows.execute("SELECT id, revision FROM rows ORDER BY id")
        while batch := rows.fetchmany(_BATCH):
            yield from batch

    def count(self, *_: object) -> int:
        return int(self._rows.execute("SELECT count(*) FROM rows").fetchone()[0])

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        self._rows.close()

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        found = (self._rows.execute("SELECT * FROM rows WHERE id = ?", (name,)).fetchone() for name in ids)
        return {
            name: Payload(name, "", "", 0, (0, 0), "", "", "", "", {}, tuple(json.loads(acl)), revision)
            for name, revision, acl in filter(None, found)
        }

    async def aclose(self) -> None:
        self.close()

    def _change(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        self._rows.execute("BEGIN")
        self._rows.executemany(statement, values)
        self._rows.execute("COMMIT")


def install(patch: pytest.MonkeyPatch) -> None:
    """Make stores of kind "counting" known in this process."""
    place = f"{__name__}:CountingStore"
    patch.setitem(registry._KINDS, KIND, registry._Kind(sink=place, searcher=place))
