"""`upsert` as the bulk writer's `send`: records in, every outcome told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import grpc
from pymilvus import MilvusClient, MilvusException

from connectors.bulk.items import Budget, BusyError, Item, Kind, Outcome, RefusedError
from connectors.milvus.client import REQUEST_SECONDS, Milvus
from connectors.milvus.codes import Code, code_of
from connectors.milvus.records import Record, record_bytes

# A server takes 64 MB in one message; what it has to turn into columns in one go should be less.
BUDGET = Budget(bytes=16 << 20, rows=1000)


def item_of(record: Record) -> Item:
    """A record as the bulk writer counts it; its body stands for the bytes, the record itself is sent."""
    return Item(record["id"], bytes(record_bytes(record)))


def send_records(
    server: Milvus, collection: str, records: Mapping[str, Record], items: Sequence[Item]
) -> list[Outcome]:
    """One request. Raises BusyError, RefusedError, StoreError."""
    data = [records[item.id] for item in items]
    with server.errors():
        try:
            server.call(partial(_upsert, collection, data), REQUEST_SECONDS)
        except (MilvusException, grpc.RpcError) as error:
            raise _whole(error) from None
    return [Outcome(item.id, Kind.DONE) for item in items]


def _upsert(collection: str, data: list[Record], client: MilvusClient, seconds: float) -> None:
    client.upsert(collection, data, timeout=seconds, retry_on_rate_limit=False)


def _whole(error: Exception) -> Exception:
    """A request is taken as a whole or not at all; what is not about its rows stays as it is."""
    code = code_of(error)
    match code:
        case Code.BUSY:
            return BusyError(code, overloaded=True)
        case Code.LATE | Code.UNREACHABLE:
            return BusyError(code)
        case Code.TOO_LARGE:
            return RefusedError(Kind.TOO_LARGE, code)
        case Code.BAD_INPUT:
            return RefusedError(Kind.PERMANENT, code)
    return error
