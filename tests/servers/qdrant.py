"""A stand-in for a Qdrant server: its REST interface in front of qdrant-client's own `:memory:` mode.

The server does not come as a package. What speaks to this one is the real client over real HTTP, so addresses, keys,
certificates, bodies and statuses are tested; what answers is the client's model of the server in plain Python. It does
what that model leaves out and we depend on: payload indexes and the indexing threshold are remembered, a patch of a row
that is not there is a 404, a body above 32 MiB a 413. QDRANT_URL names a real server instead.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from qdrant_client import QdrantClient, models

from tests.servers.loopback import serving

VERSION = "1.20.0"
_MOST_BYTES = 32 << 20
_POINTS = TypeAdapter(list[models.PointStruct])
_DEFAULT_THRESHOLD = 20_000


class _NotFoundError(Exception):
    """404."""


@dataclass
class QdrantStandIn:
    """A running stand-in. `requests` lists method, path and size of what came in."""

    api_key: str = ""
    version: str = VERSION
    url: str = ""
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    client: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)
    thresholds: dict[str, int] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """The result of one request. Raises _NotFoundError, ValueError, ValidationError."""
        if path == "/":
            return None
        parts = path.strip("/").split("/")
        if parts == ["collections"]:
            return self.client.get_collections()
        name, action = parts[1], "/".join(parts[2:])
        if (method, action) == ("GET", "exists"):
            return {"exists": self.client.collection_exists(name)}
        if not self.client.collection_exists(name) and (method, action) not in (("PUT", ""), ("DELETE", "")):
            raise _NotFoundError
        return _ACTIONS[method, action](self, name, body)

    def _create(self, name: str, body: bytes) -> bool:
        wanted = models.CreateCollection.model_validate_json(body)
        self.client.create_collection(
            name,
            vectors_config=wanted.vectors,
            sparse_vectors_config=wanted.sparse_vectors,
            metadata=wanted.metadata,
        )
        self.indexes[name] = {}
        self._threshold(name, wanted.optimizers_config)
        return True

    def _update(self, name: str, body: bytes) -> bool:
        self._threshold(name, models.UpdateCollection.model_validate_json(body).optimizers_config)
        return True

    def _threshold(self, name: str, config: models.OptimizersConfigDiff | None) -> None:
        if config is not None and config.indexing_threshold is not None:
            self.thresholds[name] = config.indexing_threshold

    def _drop(self, name: str, body: bytes) -> bool:
        self.thresholds.pop(name, None)
        return self.client.delete_collection(name)

    def _info(self, name: str, body: bytes) -> models.CollectionInfo:
        info = self.client.get_collection(name)
        info.config.optimizer_config.indexing_threshold = self.thresholds.get(name, _DEFAULT_THRESHOLD)
        info.payload_schema = dict(self.indexes[name])
        return info

    def _index(self, name: str, body: bytes) -> dict[str, str]:
        wanted = models.CreateFieldIndex.model_validate_json(body)
        params: Any = wanted.field_schema
        info = models.PayloadIndexInfo(data_type=params.type.value, params=params, points=0)
        self.indexes[name][wanted.field_name] = info
        return _COMPLETED

    def _upsert(self, name: str, body: bytes) -> dict[str, str]:
        self.client.upsert(name, _POINTS.validate_python(json.loads(body)["points"]))
        return _COMPLETED

    def _retrieve(self, name: str, body: bytes) -> Any:
        wanted = models.PointRequest.model_validate_json(body)
        return self.client.retrieve(
            name, wanted.ids, with_payload=wanted.with_payload or False, with_vectors=wanted.with_vector or False
        )

    def _delete(self, name: str, body: bytes) -> dict[str, str]:
        self.client.delete(name, models.PointIdsList.model_validate_json(body))
        return _COMPLETED

    def _batch(self, name: str, body: bytes) -> list[dict[str, str]]:
        operations = models.UpdateOperations.model_validate_json(body).operations
        for operation in operations:
            assert isinstance(operation, models.SetPayloadOperation)
            wanted = operation.set_payload
            if len(self.client.retrieve(name, wanted.points or [], with_payload=False)) < len(wanted.points or []):
                raise _NotFoundError
            self.client.set_payload(name, wanted.payload, points=wanted.points or [])
        return [_COMPLETED] * len(operations)

    def _scroll(self, name: str, body: bytes) -> dict[str, Any]:
        wanted = models.ScrollRequest.model_validate_json(body)
        points, following = self.client.scroll(
            name,
            scroll_filter=wanted.filter,
            limit=wanted.limit or 10,
            offset=wanted.offset,
            with_payload=True if wanted.with_payload is None else wanted.with_payload,
        )
        return {"points": points, "next_page_offset": following}

    def _count(self, name: str, body: bytes) -> Any:
        wanted = models.CountRequest.model_validate_json(body)
        return self.client.count(name, count_filter=wanted.filter)

    def _query(self, name: str, body: bytes) -> Any:
        wanted = models.QueryRequest.model_validate_json(body)
        return self.client.query_points(
            name,
            query=wanted.query,
            using=wanted.using,
            query_filter=wanted.filter,
            limit=wanted.limit or 10,
            with_payload=wanted.with_payload or False,
        )


_COMPLETED = {"status": "completed"}
_ACTIONS: dict[tuple[str, str], Callable[[QdrantStandIn, str, bytes], Any]] = {
    ("PUT", ""): QdrantStandIn._create,
    ("GET", ""): QdrantStandIn._info,
    ("PATCH", ""): QdrantStandIn._update,
    ("DELETE", ""): QdrantStandIn._drop,
    ("PUT", "index"): QdrantStandIn._index,
    ("PUT", "points"): QdrantStandIn._upsert,
    ("POST", "points"): QdrantStandIn._retrieve,
    ("POST", "points/delete"): QdrantStandIn._delete,
    ("POST", "points/batch"): QdrantStandIn._batch,
    ("POST", "points/scroll"): QdrantStandIn._scroll,
    ("POST", "points/count"): QdrantStandIn._count,
    ("POST", "points/query"): QdrantStandIn._query,
}


@contextmanager
def qdrant_stand_in(
    *, api_key: str = "", certificate: tuple[str, str] | None = None, version: str = VERSION
) -> Iterator[QdrantStandIn]:
    """A stand-in on a free port of 127.0.0.1. `certificate` is (chain, key) in PEM files: then it speaks TLS."""
    stand_in = QdrantStandIn(api_key, version)
    try:
        with serving(type("Handler", (_Handler,), {"stand_in": stand_in}), certificate) as stand_in.url:
            yield stand_in
    finally:
        stand_in.client.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: ClassVar[QdrantStandIn]

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if self.stand_in.api_key and self.headers.get("api-key") != self.stand_in.api_key:
            self._send(401, {"status": {"error": "Must provide an API key"}})
            return
        if len(body) > _MOST_BYTES:
            self._send(413, {"status": {"error": "Payload too large"}})
            return
        with self.stand_in.lock:
            self.stand_in.requests.append((self.command, path, len(body)))
            status, answer = self._answered(path, body)
        self._send(status, answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle  # noqa: N815 - the names that the base class calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def _answered(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/":
            return 200, {"title": "qdrant - vector search engine", "version": self.stand_in.version}
        try:
            return 200, {"result": self.stand_in.answer(self.command, path, body), "status": "ok", "time": 0.0}
        except _NotFoundError:
            return 404, {"status": {"error": "Not found"}}
        except (ValueError, ValidationError) as error:
            return 400, {"status": {"error": f"Wrong input: {error}"}}

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(to_jsonable_python(answer, exclude_none=True)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
