"""`_bulk` as the bulk writer's `send`: whole documents fenced by their revision, each item's result read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from elastic_transport import ConnectionError as TransportConnectionError
from elastic_transport import ConnectionTimeout, SerializationError, TlsError
from elasticsearch import ApiError, Elasticsearch

from connectors.bulk.backoff import retry_after_seconds
from connectors.bulk.items import Budget, BusyError, Item, Kind, Outcome, RefusedError
from connectors.elasticsearch.client import error_type, es_errors, index_name
from connectors.protocol import StaleWriterError, StoreOptions
from m3core.errors import StoreError

BUDGET = Budget(bytes=10 << 20, rows=1000)
_BUSY = (408, 429, 502, 503, 504)
# Of one row in a bulk answer: from here on the fault is the server's (a shard that fails, a node that closes).
_SERVER_FAULT = 500
# Refusals that are about the index or us, not about a row: no row may become a dead letter for them.
_OF_THE_INDEX = ("index_not_found_exception", "cluster_block_exception", "security_exception", "index_closed_exception")


def index_item(chunk_id: str, revision: int, document: Mapping[str, Any]) -> Item:
    """Write a whole document; a later revision that is there already wins."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Item(chunk_id, _action("index", chunk_id, revision) + body.encode() + b"\n")


def delete_item(chunk_id: str, revision: int) -> Item:
    """Delete a document unless a later revision is there."""
    return Item(chunk_id, _action("delete", chunk_id, revision))


def send_bulk(client: Elasticsearch, options: StoreOptions, items: Sequence[Item]) -> list[Outcome]:
    """One request. Raises BusyError, RefusedError, StaleWriterError, StoreError."""
    try:
        with es_errors(options):
            answer = _bulk(client, options, items)
    except _RequestError as error:
        raise _whole(error.cause) from None
    return [_outcome(entry, options) for entry in answer["items"]]


class _RequestError(Exception):
    """A failure of the whole request that is the writer's to judge."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


def _bulk(client: Elasticsearch, options: StoreOptions, items: Sequence[Item]) -> Mapping[str, Any]:
    lines: list[Any] = [line for item in items for line in item.body.splitlines()]
    try:
        response = client.bulk(
            index=index_name(options),
            operations=lines,
            filter_path="items.*._id,items.*.status,items.*.error.type,items.*.error.caused_by.type",
        )
    except TlsError:
        raise
    except (ConnectionTimeout, TransportConnectionError, SerializationError) as error:
        raise _RequestError(error) from None
    except ApiError as error:
        if error.meta.status in (*_BUSY, 400, 413):
            raise _RequestError(error) from None
        raise
    body: Mapping[str, Any] = response.body if isinstance(response.body, dict) else {}
    return {"items": body.get("items", [])}


def _whole(cause: Exception) -> Exception:
    if not isinstance(cause, ApiError):
        return BusyError(type(cause).__name__)
    status, kind = cause.meta.status, error_type(cause.body)
    if status in _BUSY:
        asked = retry_after_seconds(cause.meta.headers.get("retry-after") or "", time.time())
        return BusyError(f"{status} {kind}", retry_after=asked, overloaded=status == 429)
    return RefusedError(Kind.TOO_LARGE if status == 413 else Kind.PERMANENT, f"{status} {kind}")


def _outcome(entry: Mapping[str, Any], options: StoreOptions) -> Outcome:
    [(action, result)] = entry.items()
    chunk_id, status = str(result["_id"]), int(result["status"])
    if status < 300 or (action == "delete" and status == 404):
        return Outcome(chunk_id, Kind.DONE)
    error = result.get("error", {})
    reason = f"{status} {error_type(error)}"
    if status == 409:
        raise StaleWriterError(
            f"store {options.name!r}: {index_name(options)} has rows of a later run than {options.revision}",
            "end this run if another one writes; if the state folder was restored from a copy: m3 repair; if it was "
            "made anew, give the collection another name",
        )
    if status in _BUSY or status >= _SERVER_FAULT:
        return Outcome(chunk_id, Kind.TRANSIENT, reason)
    if status in (401, 403) or error_type(error) in _OF_THE_INDEX:
        raise StoreError(
            f"store {options.name!r}: {index_name(options)} takes no rows ({reason})",
            "see its blocks and the key's rights, then run again",
        )
    return Outcome(chunk_id, Kind.TOO_LARGE if status == 413 else Kind.PERMANENT, reason)


def _action(name: str, chunk_id: str, revision: int) -> bytes:
    action = {name: {"_id": chunk_id, "version": revision, "version_type": "external_gte"}}
    return json.dumps(action, separators=(",", ":")).encode() + b"\n"
