"""The writing side of Milvus: whole records by id; what is written last stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from pymilvus import MilvusClient

from connectors.bulk.writer import BulkWriter
from connectors.ids import known_form
from connectors.milvus.bulk import BUDGET, item_of, send_records
from connectors.milvus.client import REQUEST_SECONDS, Milvus, collection_name
from connectors.milvus.filters import EVERY_ROW, among
from connectors.milvus.making import STRONG, look_at, make_collection
from connectors.milvus.records import Record, part_records, patched, record_of, record_problem
from connectors.milvus.schema import MAX_VECTORS, Collection, Layout, milvus_capabilities
from connectors.protocol import Capabilities, CollectionSchema, Failure, Patch, StoreFacts, StoreOptions, WriteResult
from connectors.rows import (
    check_opened_for,
    checked_patches,
    last_of_each,
    require_changed,
    split_rows,
    write_result,
)
from m3core.errors import StoreError
from m3core.types import Row

_PAGE = 5000
_READ_BATCH = 200
# A server answers with at most 64 MB.
_READ_BYTES = 32 << 20
_SEAL_SECONDS = 300.0
# Without a single row taken for so long, the server counts as down.
PATIENCE_SECONDS = 120.0


class MilvusSink:
    """Sink of kind "milvus" (a `LoadingSink`). The client is opened at the first request."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._main = collection_name(options)
        self._server = Milvus(options)

    @property
    def capabilities(self) -> Capabilities:
        return milvus_capabilities(self._schema)

    def ensure(self, schema: CollectionSchema) -> None:
        """Create the collections, or check those that are there; the server has them loaded afterwards."""
        check_opened_for(schema, self._options)
        self.facts()
        for collection in self._collections:
            self._server.ask(partial(make_collection, collection, self._server.layout(), self._options))
        self._server.ask(lambda client, _: self._server.load(client))

    def write(self, rows: Sequence[Row]) -> WriteResult:
        good, failures = split_rows(rows, self._schema, self.capabilities)
        last = last_of_each(good)
        records = {row.chunk.id: record_of(row, self._schema, self._server.layout()) for row in last}
        refused = [
            Failure(chunk_id, "too-large", problem)
            for chunk_id, record in records.items()
            if (problem := record_problem(record))
        ]
        lost = _ids(refused)
        # A row is there once its main record is, so its parts go first.
        refused += self._write_parts([row for row in last if row.chunk.id not in lost])
        lost = _ids(refused)
        refused += self._upsert(self._main, [record for chunk_id, record in records.items() if chunk_id not in lost])
        return write_result(good, refused, failures)

    def delete(self, ids: Sequence[str]) -> None:
        wanted = known_form(ids)
        for start in range(0, len(wanted), BUDGET.rows):
            part = wanted[start : start + BUDGET.rows]
            self._delete(self._main, among(part))
            for beside in self._collections[1:]:
                # By chunk: an earlier version of the row may have had more parts.
                self._delete(beside.name, among(part, column="chunk"))

    def patch(self, patches: Sequence[Patch]) -> None:
        checked = {patch.id: patch for patch in checked_patches(patches, self._schema)}
        wanted = known_form(list(checked))
        columns = [column.name for column in self._collections[0].columns]
        size = _READ_BATCH
        if self._server.layout() is Layout.STRUCTS:
            size = min(size, max(1, _READ_BYTES // (2 * MAX_VECTORS * self._schema.multi_dim)))
        for start in range(0, len(wanted), size):
            found = self._query(among(wanted[start : start + size]), columns)
            records = [patched(record, checked[record["id"]], self._schema) for record in found]
            for record in records:
                if problem := record_problem(record):
                    raise StoreError(f"patch of {record['id']}: {problem}", "give the row less metadata or acl")
            require_changed(self._upsert(self._main, records), self._options.name)

    def scan(self) -> Iterator[tuple[str, int]]:
        before = ""
        pages = self._server.ask(self._pages)
        try:
            while page := self._server.ask(lambda client, seconds: pages.next()):
                for record in page:
                    if record["id"] <= before:
                        raise StoreError(f"store {self._options.name!r} lists ids out of order", "upgrade the server")
                    before = record["id"]
                    yield record["id"], record["revision"]
        finally:
            pages.close()

    def count(self) -> int:
        return int(self._query(EVERY_ROW, ["count(*)"])[0]["count(*)"])

    def flush(self) -> None:
        """Wait until what was acknowledged is visible; it is durable already (in the server's log)."""
        for collection in self._collections:
            self._query(EVERY_ROW, ["count(*)"], collection.name)

    def finish_loading(self) -> None:
        """Have the server turn what lies in memory into segments with indexes: until then it scans it."""
        self._options.before_request()
        for collection in self._collections:
            self._server.ask(partial(_seal, collection.name), _SEAL_SECONDS)

    def drop(self) -> None:
        self._options.before_request()
        for collection in self._collections:
            self._server.ask(partial(_drop, collection.name))

    def facts(self) -> StoreFacts:
        return StoreFacts(self._server.version())

    def verify(self) -> bool:
        layout = self._server.layout()
        there = [self._server.ask(partial(look_at, each, layout, self._options)) for each in self._collections]
        if there[0] and not all(there):
            raise StoreError(
                f"store {self._options.name!r}: {self._main} is there, and its multi-vectors are not",
                "run m3 repair, or build a new generation",
            )
        return there[0]

    def close(self) -> None:
        self._server.close()

    @property
    def _collections(self) -> tuple[Collection, ...]:
        return self._server.collections()

    def _write_parts(self, rows: Sequence[Row]) -> list[Failure]:
        """Write the multi-vectors that lie beside the rows; the chunks of which a part was refused."""
        beside = self._collections[1:]
        if not beside:
            return []
        refused = self._upsert(beside[0].name, [part for row in rows for part in part_records(row)])
        lost = {failure.id.partition("/")[0]: failure for failure in refused}
        return [Failure(chunk_id, failure.kind, failure.reason) for chunk_id, failure in lost.items()]

    def _upsert(self, collection: str, records: Sequence[Record]) -> list[Failure]:
        by_id = {record["id"]: record for record in records}
        writer = BulkWriter(
            store=self._options.name,
            send=lambda items: send_records(self._server, collection, by_id, items),
            budget=BUDGET,
            before_request=self._options.before_request,
            patience=PATIENCE_SECONDS,
        )
        return writer.write([item_of(record) for record in records])

    def _delete(self, collection: str, expression: str) -> None:
        self._options.before_request()
        self._server.ask(lambda client, seconds: client.delete(collection, filter=expression, timeout=seconds))

    def _query(self, expression: str, columns: list[str], collection: str = "") -> list[Record]:
        def request(client: MilvusClient, seconds: float) -> list[Record]:
            return list(
                client.query(
                    collection or self._main,
                    filter=expression,
                    output_fields=columns,
                    consistency_level=STRONG,
                    timeout=seconds,
                )
            )

        return self._server.ask(request)

    def _pages(self, client: MilvusClient, seconds: float) -> Any:
        return client.query_iterator(
            self._main,
            batch_size=_PAGE,
            filter=EVERY_ROW,
            output_fields=["id", "revision"],
            consistency_level=STRONG,
            timeout=REQUEST_SECONDS,
        )


def _drop(collection: str, client: MilvusClient, seconds: float) -> None:
    # What is not there is no error to the server.
    client.drop_collection(collection, timeout=seconds)


def _seal(collection: str, client: MilvusClient, seconds: float) -> None:
    client.flush(collection, timeout=seconds)


def _ids(failures: Sequence[Failure]) -> set[str]:
    return {failure.id for failure in failures}
