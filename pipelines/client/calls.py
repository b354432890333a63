"""The service's calls without a connection: what is sent, how an answer is read, when it is asked again. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from connectors.bulk.backoff import Backoff, retry_after_seconds
from m3core.types import Identity
from pipelines.client.errors import ServiceError
from pipelines.query.service.schemas import (
    CollectionsTold,
    DocumentTold,
    EncodeBody,
    EncodeTold,
    ProblemTold,
    SearchBody,
    SearchTold,
)

if TYPE_CHECKING:
    import httpx

Model = TypeVar("Model", bound=BaseModel)

# A service that is busy or starting; everything else would be answered the same way again.
_TRANSIENT = (429, 502, 503, 504)


@dataclass(frozen=True)
class Call(Generic[Model]):
    """One request. All of the service's requests only read, so that each may be sent again."""

    method: str
    path: str
    reads: type[Model]
    body: Mapping[str, Any] | None = None
    parameters: Mapping[str, int] = field(default_factory=dict)
    identity: Identity | None = None

    def headers(self) -> dict[str, str]:
        """The headers that name another identity; none unless the call acts for one."""
        if self.identity is None:
            return {}
        principals = ",".join(quote(each, safe="") for each in self.identity.principals)
        return {"m3-act-as-tenant": quote(self.identity.tenant, safe=""), "m3-act-as-principals": principals}


def search_call(collection: str, body: SearchBody, identity: Identity | None) -> Call[SearchTold]:
    """One search."""
    path = f"/v1/collections/{quote(collection, safe='')}/search"
    return Call("POST", path, SearchTold, body.model_dump(exclude_defaults=True), identity=identity)


def document_call(
    collection: str, doc_id: str, offset: int, limit: int, identity: Identity | None
) -> Call[DocumentTold]:
    """A document's chunks."""
    path = f"/v1/collections/{quote(collection, safe='')}/documents/{quote(doc_id)}"
    return Call("GET", path, DocumentTold, parameters={"offset": offset, "limit": limit}, identity=identity)


def collections_call(identity: Identity | None) -> Call[CollectionsTold]:
    """What can be searched."""
    return Call("GET", "/v1/collections", CollectionsTold, identity=identity)


def encode_call(texts: Sequence[str], signals: Sequence[str] | None) -> Call[EncodeTold]:
    """Vectors of queries."""
    body = EncodeBody.model_validate({"texts": list(texts), "signals": list(signals) if signals else None})
    return Call("POST", "/v1/encode", EncodeTold, body.model_dump(exclude_none=True))


@dataclass
class Attempts:
    """How often and how long one call is tried. Waits grow with full jitter and are never below Retry-After.

    `patience` bounds all waits together, in seconds: an answer that would come later is not waited for.
    """

    most: int = 4
    patience: float = 30.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base=0.25, limit=5.0))
    made: int = 0
    waited: float = 0.0

    def wait(self, retry_after: float = 0.0) -> float | None:
        """Seconds until the next attempt, or None if this was the last."""
        self.made += 1
        seconds = self.backoff.wait(retry_after)
        if self.made >= self.most or self.waited + seconds > self.patience:
            return None
        self.waited += seconds
        return seconds


def wait_of(response: httpx.Response, attempts: Attempts) -> float | None:
    """Seconds to wait before the call is sent again; None if the answer stands."""
    if response.status_code not in _TRANSIENT:
        return None
    return attempts.wait(retry_after_seconds(response.headers.get("retry-after", ""), time.time()))


def read(call: Call[Model], response: httpx.Response) -> Model:
    """The answer. Raises ServiceError if it is a problem, or nothing that the service says."""
    request_id = response.headers.get("x-request-id", "")
    try:
        if response.is_success:
            return call.reads.model_validate_json(response.content)
        told = ProblemTold.model_validate_json(response.content)
    except ValidationError:
        raise ServiceError(
            f"the answer ({response.status_code}) is not one of a threefold service",
            "check the address, and whether something between answers for it",
            status=response.status_code,
            request_id=request_id,
        ) from None
    raise ServiceError(told.detail, told.remedy, told.status, told.code, told.request_id)


def unreachable(error: Exception) -> ServiceError:
    """No answer at all. The client's text stays out: it may hold an address with a secret."""
    return ServiceError(
        f"the service did not answer: {type(error).__name__}", "check its address and whether m3 serve is running"
    )
