"""The writing side of Elasticsearch: whole documents under external versions, so that a late writer loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elasticsearch import Elasticsearch

from connectors.bulk.items import Item, MadeLater
from connectors.bulk.limit import AdaptiveLimit
from connectors.bulk.writer import BulkWriter
from connectors.elasticsearch.bulk import BUDGET, delete_item, index_item, send_bulk
from connectors.elasticsearch.client import check_version, es_errors, index_name, open_client
from connectors.elasticsearch.compacting import compact_index
from connectors.elasticsearch.facts import server_facts
from connectors.elasticsearch.probe import prove
from connectors.elasticsearch.schema import (
    LOADING_SETTINGS,
    SEARCHING_SETTINGS,
    check_mapping,
    document_of,
    es_capabilities,
    index_body,
    patched,
)
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
from m3core.types import Row, Signal

_PAGE = 5000
_READ_BATCH = 500
_SCAN_KEPT = "2m"
# Without a single row taken for so long, the server counts as down.
PATIENCE_SECONDS = 120.0


class ElasticsearchSink:
    """Sink of kind "elasticsearch" (`LoadingSink`, `CompactingSink`). The client is opened at the first request."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._schema = options.schema
        self._index = index_name(options)
        self._opened: Elasticsearch | None = None
        self._limit = AdaptiveLimit()

    @property
    def capabilities(self) -> Capabilities:
        return es_capabilities(self._schema)

    def ensure(self, schema: CollectionSchema) -> None:
        """Probe the server, then create the index, or check the one that is there."""
        check_opened_for(schema, self._options)
        _check_signals(schema, self._options.name)
        client = self._client
        with es_errors(self._options):
            info = client.info().body
            version = check_version(info, self._options)
            prove(client, str(info.get("cluster_uuid")), version, self._options)
            found = client.indices.get(index=self._index, ignore_unavailable=True).body.get(self._index)
            if found is None:
                self._options.before_request()
                client.indices.create(
                    index=self._index,
                    timeout="10s",
                    **index_body(schema, version, loading=self._options.building),
                )
                return
            check_mapping(found["mappings"], schema, self._options.name, self._index)
            if not self._options.building and _is_loading(found["settings"]):
                self.finish_loading()  # a run that ended between the last row and this left them

    def write(self, rows: Sequence[Row]) -> WriteResult:
        good, failures = split_rows(rows, self._schema, self.capabilities)
        # The run that writes fences, also where it brings a row that an earlier run made.
        fence = self._options.revision
        items = MadeLater(
            last_of_each(good),
            lambda row: index_item(row.chunk.id, max(fence, row.revision), document_of(row, self._schema)),
        )
        return write_result(good, self._bulk(items), failures)

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), BUDGET.rows):
            part = list(dict.fromkeys(ids[start : start + BUDGET.rows]))
            revisions = dict.fromkeys(part, self._options.revision) if self._options.revision else self._revisions(part)
            items = [delete_item(chunk_id, revision) for chunk_id, revision in revisions.items()]
            # One after the other: they are small, and how fast they are says nothing of writes.
            refused = self._bulk(items, AdaptiveLimit(most=1))
            require_changed(refused, self._options.name)

    def patch(self, patches: Sequence[Patch]) -> None:
        checked = {patch.id: patch for patch in checked_patches(patches, self._schema)}
        wanted = list(checked)
        for start in range(0, len(wanted), _READ_BATCH):
            found = self._read(wanted[start : start + _READ_BATCH], source=True)
            items = [
                index_item(chunk_id, checked[chunk_id].revision, self._patched(document["_source"], checked[chunk_id]))
                for chunk_id, document in found.items()
            ]
            require_changed(self._bulk(items), self._options.name)

    def scan(self) -> Iterator[tuple[str, int]]:
        self._refresh()
        with es_errors(self._options):
            pit = self._client.open_point_in_time(index=self._index, keep_alive=_SCAN_KEPT)["id"]
        try:
            after: list[Any] | None = None
            while hits := self._page(pit, after):
                for hit in hits:
                    yield str(hit["_id"]), int(hit["fields"]["revision"][0])
                after = hits[-1]["sort"]
        finally:
            with es_errors(self._options):
                self._client.close_point_in_time(id=pit)

    def count(self) -> int:
        self._refresh()
        with es_errors(self._options):
            return int(self._client.count(index=self._index)["count"])

    def flush(self) -> None:
        """Make what was acknowledged visible; it is durable already (the translog is synced before each answer)."""
        self._refresh()

    def compact(self) -> None:
        """Merge until no segment holds a deleted document, and cut the translog: `compacting.py`."""
        compact_index(self._client, self._index, self._options)

    def finish_loading(self) -> None:
        """Refresh and replicas as the server does by default."""
        self._options.before_request()
        with es_errors(self._options):
            self._client.indices.put_settings(index=self._index, settings=dict(SEARCHING_SETTINGS))
            self._client.indices.refresh(index=self._index)

    def drop(self) -> None:
        self._options.before_request()
        with es_errors(self._options):
            self._client.indices.delete(index=self._index, ignore_unavailable=True)

    def facts(self) -> StoreFacts:
        with es_errors(self._options):
            return server_facts(self._client, check_version(self._client.info().body, self._options), BUDGET.bytes)

    def verify(self) -> bool:
        with es_errors(self._options):
            found = self._client.indices.get(index=self._index, ignore_unavailable=True).body.get(self._index)
        if found is not None:
            check_mapping(found["mappings"], self._schema, self._options.name, self._index)
        return found is not None

    def close(self) -> None:
        client, self._opened = self._opened, None
        if client is not None:
            client.close()

    @property
    def _client(self) -> Elasticsearch:
        if self._opened is None:
            self._opened = open_client(self._options)
        return self._opened

    def _bulk(self, items: Sequence[Item], limit: AdaptiveLimit | None = None) -> list[Failure]:
        writer = BulkWriter(
            store=self._options.name,
            send=lambda part: send_bulk(self._client, self._options, part),
            budget=BUDGET,
            before_request=self._options.before_request,
            patience=PATIENCE_SECONDS,
            limit=limit or self._limit,
        )
        return writer.write(items)

    def _patched(self, source: Mapping[str, Any], patch: Patch) -> dict[str, Any]:
        return patched(source, patch, self._schema)

    def _revisions(self, ids: Sequence[str]) -> dict[str, int]:
        return {chunk_id: int(document["_version"]) for chunk_id, document in self._read(ids, source=False).items()}

    def _read(self, ids: Sequence[str], *, source: bool) -> dict[str, Mapping[str, Any]]:
        """Stored documents by id, also those that no search sees yet; absent rows are absent."""
        with es_errors(self._options):
            documents = self._client.mget(index=self._index, ids=list(ids), source=source)["docs"]
        return {document["_id"]: document for document in documents if document.get("found")}

    def _page(self, pit: str, after: list[Any] | None) -> list[Mapping[str, Any]]:
        with es_errors(self._options):
            answer = self._client.search(
                pit={"id": pit, "keep_alive": _SCAN_KEPT},
                size=_PAGE,
                sort=[{"id": "asc"}],
                search_after=after,
                source=False,
                docvalue_fields=[{"field": "revision"}],
                track_total_hits=False,
            )
        hits: list[Mapping[str, Any]] = answer["hits"]["hits"]
        return hits

    def _refresh(self) -> None:
        with es_errors(self._options):
            self._client.indices.refresh(index=self._index)


def _check_signals(schema: CollectionSchema, store: str) -> None:
    others = sorted(schema.signals - {Signal.LEXICAL})
    if others:
        raise StoreError(
            f"store {store!r} cannot keep {', '.join(others)} vectors: Elasticsearch keeps lexical weights",
            "give them to another store",
        )


def _is_loading(settings: Mapping[str, Any]) -> bool:
    index = settings.get("index", {})
    return any(str(index.get(name.removeprefix("index."))) == str(value) for name, value in LOADING_SETTINGS.items())
