"""Changes of points as the bulk writer's `send`: the bytes that were measured are the bytes that are sent.

The server takes a request as a whole or refuses it as a whole, so every item of one has the same outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from connectors.bulk.backoff import retry_after_seconds
from connectors.bulk.items import Budget, BusyError, Item, Kind, Outcome, RefusedError
from connectors.protocol import StoreOptions
from connectors.qdrant.server.client import collection_name, qdrant_errors

# Servers take 32 MiB; indexing such a request at once would hold memory that searches need.
BUDGET = Budget(bytes=16 << 20, rows=1000)
_BUSY = (408, 429, 500, 502, 503, 504)
_REFUSED = (400, 413, 422)


@dataclass(frozen=True)
class Request:
    """One kind of change: `items` stand, joined by commas, between `before` and `after`."""

    method: str
    path: str
    before: bytes
    after: bytes = b"]}"


UPSERT = Request("PUT", "/collections/{collection_name}/points", b'{"points":[')
DELETE = Request("POST", "/collections/{collection_name}/points/delete", b'{"points":[')
PATCH = Request("POST", "/collections/{collection_name}/points/batch", b'{"operations":[')


def sender(client: Callable[[], QdrantClient], options: StoreOptions, request: Request) -> Callable[..., list[Outcome]]:
    """`send` of a bulk writer. It raises BusyError, RefusedError, StoreError."""

    def send(items: Sequence[Item]) -> list[Outcome]:
        _carry_out(client(), options, request, request.before + b",".join(item.body for item in items) + request.after)
        return [Outcome(item.id, Kind.DONE) for item in items]

    return send


def _carry_out(client: QdrantClient, options: StoreOptions, request: Request, content: bytes) -> None:
    with qdrant_errors(options):
        try:
            answer = client.http.client.request(
                type_=dict[str, Any],
                method=request.method,
                url=request.path,
                path_params={"collection_name": collection_name(options)},
                params={"wait": "true"},
                headers={"Content-Type": "application/json"},
                content=content,
            )
        except QdrantException as error:
            # 429 with a Retry-After; the client cannot read one that is a date.
            raise BusyError("429", retry_after=float(getattr(error, "retry_after_s", 0)), overloaded=True) from None
        except UnexpectedResponse as error:
            if error.status_code in _BUSY:
                raise _busy(error) from None
            if error.status_code in _REFUSED:
                kind = Kind.TOO_LARGE if error.status_code == 413 else Kind.PERMANENT
                raise RefusedError(kind, str(error.status_code)) from None
            raise
        except ResponseHandlingException as error:
            # A certificate that is not trusted will not be later; everything else on the way may pass.
            if isinstance(error.source, httpx.TransportError) and "CERTIFICATE_VERIFY_FAILED" not in str(error.source):
                raise BusyError(type(error.source).__name__) from None
            raise
    results = answer.get("result")
    for result in results if isinstance(results, list) else [results]:
        status = result.get("status") if isinstance(result, dict) else None
        if status != "completed":
            raise BusyError(f"an update is {str(status)[:20]!a}, not completed")


def _busy(error: UnexpectedResponse) -> BusyError:
    asked = retry_after_seconds(error.headers.get("retry-after") or "", time.time())
    return BusyError(str(error.status_code), retry_after=asked, overloaded=error.status_code == 429)
