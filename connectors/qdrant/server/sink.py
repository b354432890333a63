"""The writing side of a Qdrant server: whole points in bounded requests, each applied before it is acknowledged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qdrant_client import QdrantClient, models

from connectors.bulk.items import Item
from connectors.bulk.writer import BulkWriter
from connectors.ids import known_form
from connectors.protocol import Capabilities, CollectionSchema, Failure, Patch, StoreFacts, StoreOptions, WriteResult
from connectors.qdrant.payload import patch_payload
from connectors.qdrant.server.bulk import BUDGET, DELETE, PATCH, UPSERT, Request, sender
from connectors.qdrant.server.client import collection_name, open_client, qdrant_errors, server_clock, server_version
from connectors.qdrant.server.schema import (
    check_collection,
    creation,
    id_json,
    indexing,
    is_loading,
    patch_json,
    payload_indexes,
    point_json,
    server_capabilities,
)
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
_READ_BATCH = 1000
# Without a single row taken for so long, the server counts as down.
PATIENCE_SECONDS = 120.0


class QdrantSink:
    """Sink of kind "qdrant" (a `LoadingSink`). The client is opened at the first request."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._name = collection_name(options)
        self._opened: QdrantClient | None = None

    @property
    def capabilities(self) -> Capabilities:
        return server_capabilities(self._schema)

    def ensure(self, schema: CollectionSchema) -> None:
        """Create the collection with its indexes, or check the one that is there."""
        check_opened_for(schema, self._options)
        server_version(self._client, self._options)
        info = self._info()
        if info is None:
            self._options.before_request()
            with qdrant_errors(self._options):
                self._client.create_collection(self._name, **creation(schema, loading=self._options.building))
            info = self._info()
        if info is None:
            raise StoreError(
                f"store {self._options.name!r}: {self._name} is gone right after it was made", "see who deletes it"
            )
        check_collection(info, schema, self._options.name, self._name)
        # A run that ended in the middle of this, or between its last row and `finish_loading`, left the rest to us.
        self._make_indexes(info)
        if not self._options.building and is_loading(info):
            self.finish_loading()

    def write(self, rows: Sequence[Row]) -> WriteResult:
        good, failures = split_rows(rows, self._schema, self.capabilities)
        items = [Item(row.chunk.id, point_json(row, self._schema)) for row in last_of_each(good)]
        return write_result(good, self._bulk(UPSERT, items), failures)

    def delete(self, ids: Sequence[str]) -> None:
        refused = self._bulk(DELETE, [Item(chunk_id, id_json(chunk_id)) for chunk_id in known_form(ids)])
        require_changed(refused, self._options.name)

    def patch(self, patches: Sequence[Patch]) -> None:
        wanted = {patch.id: patch for patch in checked_patches(patches, self._schema)}
        # The server refuses to patch a row that is not there.
        items = [
            Item(chunk_id, patch_json(chunk_id, patch_payload(wanted[chunk_id], self._schema)))
            for chunk_id in self._present(known_form(list(wanted)))
        ]
        require_changed(self._bulk(PATCH, items), self._options.name)

    def scan(self) -> Iterator[tuple[str, int]]:
        following: models.ExtendedPointId | None = None
        while True:
            with qdrant_errors(self._options):
                records, following = self._client.scroll(
                    self._name, limit=_PAGE, offset=following, with_payload=["revision"], with_vectors=False
                )
            for record in records:
                yield str(record.id), int((record.payload or {})["revision"])
            if following is None:
                return

    def count(self) -> int:
        with qdrant_errors(self._options):
            return int(self._client.count(self._name, exact=True).count)

    def flush(self) -> None:
        """Every acknowledged change is in the server's log already."""

    def finish_loading(self) -> None:
        """Let the server build graphs; until it has, it scans what has none, which is slower and exact."""
        info = self._info()
        if info is not None and is_loading(info):
            self._options.before_request()
            with qdrant_errors(self._options):
                self._client.update_collection(self._name, optimizers_config=indexing(loading=False))

    def facts(self) -> StoreFacts:
        version = server_version(self._client, self._options)
        with qdrant_errors(self._options):
            clock = server_clock(self._client)
            # The title and version are for everybody; this asks whether we may look at collections.
            self._client.collection_exists(self._name)
        return StoreFacts(version, clock=clock)

    def verify(self) -> bool:
        info = self._info()
        if info is not None:
            check_collection(info, self._schema, self._options.name, self._name)
        return info is not None

    def drop(self) -> None:
        self._options.before_request()
        with qdrant_errors(self._options):
            self._client.delete_collection(self._name)

    def close(self) -> None:
        client, self._opened = self._opened, None
        if client is not None:
            client.close()

    @property
    def _client(self) -> QdrantClient:
        if self._opened is None:
            self._opened = open_client(self._options)
        return self._opened

    def _info(self) -> models.CollectionInfo | None:
        with qdrant_errors(self._options):
            return self._client.get_collection(self._name) if self._client.collection_exists(self._name) else None

    def _make_indexes(self, info: models.CollectionInfo) -> None:
        for path, params in payload_indexes(self._schema).items():
            if path not in info.payload_schema:
                self._options.before_request()
                with qdrant_errors(self._options):
                    self._client.create_payload_index(self._name, path, field_schema=params, wait=True)

    def _present(self, ids: Sequence[str]) -> Iterator[str]:
        for start in range(0, len(ids), _READ_BATCH):
            part = ids[start : start + _READ_BATCH]
            with qdrant_errors(self._options):
                found = self._client.retrieve(self._name, part, with_payload=False, with_vectors=False)
            yield from (str(record.id) for record in found)

    def _bulk(self, request: Request, items: Sequence[Item]) -> list[Failure]:
        writer = BulkWriter(
            store=self._options.name,
            send=sender(lambda: self._client, self._options, request),
            budget=BUDGET,
            before_request=self._options.before_request,
            patience=PATIENCE_SECONDS,
        )
        return writer.write(items)
