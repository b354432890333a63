# ruff: noqa: N802 - the methods have the names of the protocol
"""A server of ours that speaks Milvus's protocol as servers of 2.6.4 and newer do, arrays of structs included.

Such a server comes in no package. This one decodes the real client's wire messages with the client's own message
classes, keeps rows in memory, evaluates the expressions that we compile, and computes every score exactly in float32:
dot products, and MaxSim as a sum. It refuses what a server refuses: other columns or longer values than the schema
says, more than 4,096 structs in an array, a query vector of another type than the column's, a metric that the index
does not have, searches in what is not loaded, messages above 64 MB, a wrong token. `overlooked` are rows that its
graph does not find, as a real graph may. What it cannot show is a real server's speed, recall and faults: MILVUS_URI
names one.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from pymilvus import DataType
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc, schema_pb2

from tests.servers.contract.columns import Column, columns_of, field_data, named_on_server, rows_of
from tests.servers.contract.kept import (
    BAD_PARAMETER,
    NO_COLLECTION,
    NO_INDEX,
    NOT_LOADED,
    SCALARS,
    Kept,
    RefusedError,
    column_named,
    scorer,
)

VERSION = "v2.6.4"
_MOST_BYTES = 64 << 20
_MOST_HITS = 16_384


@dataclass
class Contract:
    """A running server. `requests` lists the methods that were called; `fault` may choose a failure of one: a gRPC
    status, or a code of Milvus."""

    token: str = ""
    url: str = ""
    version: str = VERSION
    overlooked: set[str] = field(default_factory=set)
    fault: Callable[[str], grpc.StatusCode | int | None] = lambda method: None
    requests: list[str] = field(default_factory=list)
    collections: dict[str, Kept] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def of(self, name: str) -> Kept:
        """Raises RefusedError."""
        if name not in self.collections:
            raise RefusedError(NO_COLLECTION, "collection not found")
        return self.collections[name]

    def loaded(self, name: str) -> Kept:
        """Raises RefusedError."""
        kept = self.of(name)
        if not kept.loaded:
            raise RefusedError(NOT_LOADED, "collection not loaded")
        return kept


@contextmanager
def contract_server(token: str = "", certificate: tuple[str, str] | None = None) -> Iterator[Contract]:
    """A server on a free port of 127.0.0.1. `certificate` is (chain, key) in PEM files: then it speaks TLS."""
    contract = Contract(token)
    options = [("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.max_send_message_length", _MOST_BYTES)]
    threads = ThreadPoolExecutor(8, thread_name_prefix="contract")
    server = grpc.server(threads, interceptors=[_Door(contract)], options=options)
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(_Servicer(contract), server)
    if certificate:
        chain, key = (Path(path).read_bytes() for path in certificate)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    contract.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    server.start()
    try:
        yield contract
    finally:
        server.stop(None).wait()
        threads.shutdown()


class _Door(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Asks for the token, notes the method, and fails on purpose."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def intercept_service(self, continuation: Any, call: Any) -> Any:
        method = call.method.rpartition("/")[2]
        with self._contract.lock:
            self._contract.requests.append(method)
            fault = self._contract.fault(method)
        expected = base64.b64encode(self._contract.token.encode()).decode()
        if self._contract.token and dict(call.invocation_metadata).get("authorization") != expected:
            fault = grpc.StatusCode.UNAUTHENTICATED
        if isinstance(fault, grpc.StatusCode):
            code = fault
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(code, "on purpose"))
        if fault is not None:
            status = common_pb2.Status(code=fault, reason="on purpose")
            answer = milvus_pb2.MutationResult(status=status) if method in ("Upsert", "Delete") else status
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: answer,
                request_deserializer=lambda raw: raw,
                response_serializer=lambda message: message.SerializeToString(),
            )
        return continuation(call)


class _Servicer(milvus_pb2_grpc.MilvusServiceServicer):  # type: ignore[misc]  # generated without types
    """What our connector calls; the base class answers UNIMPLEMENTED to everything else."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def Connect(self, request: Any, context: Any) -> Any:
        return milvus_pb2.ConnectResponse(status=_OK, server_info=common_pb2.ServerInfo(build_tags=VERSION))

    def GetVersion(self, request: Any, context: Any) -> Any:
        return milvus_pb2.GetVersionResponse(status=_OK, version=self._contract.version)

    def AllocTimestamp(self, request: Any, context: Any) -> Any:
        return milvus_pb2.AllocTimestampResponse(status=_OK, timestamp=1)

    def ShowCollections(self, request: Any, context: Any) -> Any:
        return milvus_pb2.ShowCollectionsResponse(status=_OK, collection_names=sorted(self._contract.collections))

    def HasCollection(self, request: Any, context: Any) -> Any:
        return milvus_pb2.BoolResponse(status=_OK, value=request.collection_name in self._contract.collections)

    def CreateCollection(self, request: Any, context: Any) -> Any:
        def create() -> common_pb2.Status:
            schema = schema_pb2.CollectionSchema.FromString(request.schema)
            columns = {column.name: column for column in columns_of(schema)}
            if not any("VECTOR" in column.type.name for column in columns.values()):
                raise RefusedError(BAD_PARAMETER, "no vector field")
            number = len(self._contract.collections) + 1
            kept = Kept(schema, list(request.properties), number, columns)
            self._contract.collections[request.collection_name] = kept
            return _OK

        return self._told(create, lambda status: status)

    def DropCollection(self, request: Any, context: Any) -> Any:
        self._contract.collections.pop(request.collection_name, None)
        return _OK

    def DescribeCollection(self, request: Any, context: Any) -> Any:
        def describe() -> Any:
            kept = self._contract.of(request.collection_name)
            return milvus_pb2.DescribeCollectionResponse(
                status=_OK,
                schema=named_on_server(kept.schema),
                collectionID=kept.number,
                collection_name=request.collection_name,
                properties=kept.properties,
            )

        return self._told(describe, lambda status: milvus_pb2.DescribeCollectionResponse(status=status))

    def CreateIndex(self, request: Any, context: Any) -> Any:
        def create() -> common_pb2.Status:
            kept = self._contract.of(request.collection_name)
            params = {pair.key: pair.value for pair in request.extra_params}
            column, metric = column_named(kept, request.field_name), params["metric_type"]
            wanted = "MAX_SIM_IP" if column.type is DataType.ARRAY else "IP"
            if metric != wanted or (column.type is DataType.ARRAY and params["index_type"] == "FLAT"):
                raise RefusedError(BAD_PARAMETER, f"{params['index_type']} with {metric} on {request.field_name}")
            kept.indexes[request.index_name or request.field_name] = (request.field_name, metric)
            return _OK

        return self._told(create, lambda status: status)

    def DescribeIndex(self, request: Any, context: Any) -> Any:
        def describe() -> Any:
            kept = self._contract.of(request.collection_name)
            if not kept.indexes:
                raise RefusedError(NO_INDEX, "index not found")
            found = [
                milvus_pb2.IndexDescription(
                    index_name=name,
                    field_name=column,
                    state=common_pb2.IndexState.Finished,
                    params=[common_pb2.KeyValuePair(key="metric_type", value=metric)],
                )
                for name, (column, metric) in kept.indexes.items()
            ]
            return milvus_pb2.DescribeIndexResponse(status=_OK, index_descriptions=found)

        return self._told(describe, lambda status: milvus_pb2.DescribeIndexResponse(status=status))

    def DropIndex(self, request: Any, context: Any) -> Any:
        self._contract.of(request.collection_name).indexes.pop(request.index_name, None)
        return _OK

    def LoadCollection(self, request: Any, context: Any) -> Any:
        def load() -> common_pb2.Status:
            kept = self._contract.of(request.collection_name)
            indexed = {column.partition("[")[0] for column, _ in kept.indexes.values()}
            if indexed != {name for name, column in kept.columns.items() if column.type not in SCALARS}:
                raise RefusedError(NO_INDEX, "there is no vector index on a field")
            kept.loaded = True
            return _OK

        return self._told(load, lambda status: status)

    def ReleaseCollection(self, request: Any, context: Any) -> Any:
        self._contract.of(request.collection_name).loaded = False
        return _OK

    def GetLoadingProgress(self, request: Any, context: Any) -> Any:
        return milvus_pb2.GetLoadingProgressResponse(status=_OK, progress=100)

    def Flush(self, request: Any, context: Any) -> Any:
        answer = milvus_pb2.FlushResponse(status=_OK)
        for name in request.collection_names:
            answer.coll_segIDs[name].data.extend(())
            answer.coll_flush_ts[name] = 1
        return answer

    def GetFlushState(self, request: Any, context: Any) -> Any:
        return milvus_pb2.GetFlushStateResponse(status=_OK, flushed=True)

    def Upsert(self, request: Any, context: Any) -> Any:
        def upsert() -> Any:
            kept = self._contract.of(request.collection_name)
            rows = rows_of(request.fields_data, list(kept.columns.values()), request.num_rows)
            kept.rows.update((row[kept.key], row) for row in rows)
            return _changed([row[kept.key] for row in rows], upsert_cnt=len(rows))

        return self._told(upsert, lambda status: milvus_pb2.MutationResult(status=status))

    def Delete(self, request: Any, context: Any) -> Any:
        def delete() -> Any:
            kept = self._contract.loaded(request.collection_name)
            gone = [row[kept.key] for row in kept.passing(request.expr)]
            for key in gone:
                del kept.rows[key]
            return _changed(gone, delete_cnt=len(gone))

        return self._told(delete, lambda status: milvus_pb2.MutationResult(status=status))

    def Query(self, request: Any, context: Any) -> Any:
        def query() -> Any:
            kept = self._contract.loaded(request.collection_name)
            rows, names = kept.passing(request.expr), list(request.output_fields)
            limit = next((int(pair.value) for pair in request.query_params if pair.key == "limit"), len(rows))
            if names == ["count(*)"]:
                fields = [field_data(Column("count(*)", DataType.INT64), [len(rows)])]
            else:
                names = list(dict.fromkeys([kept.key, *names]))  # a server always tells the key
                fields = [field_data(kept.columns[name], [row[name] for row in rows[:limit]]) for name in names]
            return milvus_pb2.QueryResults(status=_OK, fields_data=fields, output_fields=names)

        return self._told(query, lambda status: milvus_pb2.QueryResults(status=status))

    def Search(self, request: Any, context: Any) -> Any:
        def search() -> Any:
            kept = self._contract.loaded(request.collection_name)
            params = {pair.key: pair.value for pair in request.search_params}
            limit = int(params["topk"])
            if not 0 < limit <= _MOST_HITS:
                raise RefusedError(BAD_PARAMETER, f"topk {limit}")
            score = scorer(kept, params["anns_field"], params.get("metric_type", ""), request.placeholder_group)
            graph = kept.columns.get(params["anns_field"]) is None
            rows = [
                row for row in kept.passing(request.dsl) if not (graph and row[kept.key] in self._contract.overlooked)
            ]
            hits = [(value, row[kept.key]) for row in rows if (value := score(row)) is not None]
            # Ties in an order of the server's own.
            hits.sort(key=lambda hit: (-hit[0], hit[1][::-1]))
            return _found(kept.key, hits[:limit], limit)

        return self._told(search, lambda status: milvus_pb2.SearchResults(status=status))

    def _told(self, act: Callable[[], Any], refusal: Callable[[common_pb2.Status], Any]) -> Any:
        """What `act` answers, or the refusal with its status. One request at a time."""
        with self._contract.lock:
            try:
                return act()
            except RefusedError as error:
                return refusal(common_pb2.Status(code=error.code, reason=str(error)))
            except ValueError as error:
                return refusal(common_pb2.Status(code=BAD_PARAMETER, reason=str(error)))


_OK = common_pb2.Status(code=0)


def _changed(keys: list[str], **counts: int) -> Any:
    ids = schema_pb2.IDs(str_id=schema_pb2.StringArray(data=keys))
    return milvus_pb2.MutationResult(status=_OK, IDs=ids, succ_index=range(len(keys)), **counts)


def _found(key: str, hits: Sequence[tuple[float, str]], limit: int) -> Any:
    ids = [hit[1] for hit in hits]
    results = schema_pb2.SearchResultData(
        num_queries=1,
        top_k=limit,
        topks=[len(ids)],
        ids=schema_pb2.IDs(str_id=schema_pb2.StringArray(data=ids)),
        scores=[hit[0] for hit in hits],
        output_fields=[key],
        primary_field_name=key,
        fields_data=[field_data(Column(key, DataType.VARCHAR), ids)],
    )
    return milvus_pb2.SearchResults(status=_OK, results=results)
