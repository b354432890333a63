"""The two clients: the same calls, with and without await."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from m3core.errors import MissingExtraError
from m3core.types import Identity
from pipelines.client.calls import (
    Attempts,
    Call,
    collections_call,
    document_call,
    encode_call,
    read,
    search_call,
    unreachable,
    wait_of,
)
from pipelines.query.service.schemas import CollectionTold, DocumentTold, EncodeTold, SearchBody, SearchTold

if TYPE_CHECKING:
    import httpx

Model = TypeVar("Model", bound=BaseModel)

_SECONDS = 30.0


class Client:
    """A threefold service, for code that is not async. A context manager; one connection pool, any number of threads.

    `key` is an API key; `timeout` counts seconds for one attempt; `attempts` makes the rule for asking again: by
    default up to four times within half a minute where the service is busy or away, never before Retry-After.
    `transport` is httpx's, for tests and proxies. Every method raises ServiceError.
    """

    def __init__(
        self,
        address: str,
        key: str | None = None,
        *,
        timeout: float = _SECONDS,
        attempts: Callable[[], Attempts] = Attempts,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = _httpx().Client(**_options(address, key, timeout), transport=transport)
        self._attempts = attempts

    def search(self, collection: str, query: str, *, act_as: Identity | None = None, **body: Any) -> SearchTold:
        """One search; `body` are the fields of `SearchBody`: limit, filter, preset, weights, explain, ..."""
        return self._send(search_call(collection, SearchBody(query=query, **body), act_as))

    def pages(
        self, collection: str, query: str, *, act_as: Identity | None = None, **body: Any
    ) -> Iterator[SearchTold]:
        """Page after page of one search, in the order of the first: no document twice, none skipped."""
        asked = SearchBody(query=query, **{**body, "paged": True})
        while True:
            page = self._send(search_call(collection, asked, act_as))
            yield page
            if page.cursor is None:
                return
            asked = asked.model_copy(update={"cursor": page.cursor, "offset": 0})

    def document(
        self, collection: str, doc_id: str, *, offset: int = 0, limit: int = 50, act_as: Identity | None = None
    ) -> DocumentTold:
        """A document as it is stored, chunk by chunk."""
        return self._send(document_call(collection, doc_id, offset, limit, act_as))

    def collections(self, *, act_as: Identity | None = None) -> list[CollectionTold]:
        """What can be searched."""
        return self._send(collections_call(act_as)).collections

    def encode(self, texts: Sequence[str], signals: Sequence[str] | None = None) -> EncodeTold:
        """Vectors of queries, in their order."""
        return self._send(encode_call(texts, signals))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call[Model]) -> Model:
        attempts = self._attempts()
        while True:
            try:
                response = self._http.request(
                    call.method, call.path, json=call.body, params=dict(call.parameters), headers=call.headers()
                )
            except _httpx().TransportError as error:
                wait = attempts.wait()
                if wait is None:
                    raise unreachable(error) from None
            else:
                wait = wait_of(response, attempts)
                if wait is None:
                    return read(call, response)
            time.sleep(wait)


class AsyncClient:
    """The same for async code; see `Client`."""

    def __init__(
        self,
        address: str,
        key: str | None = None,
        *,
        timeout: float = _SECONDS,
        attempts: Callable[[], Attempts] = Attempts,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = _httpx().AsyncClient(**_options(address, key, timeout), transport=transport)
        self._attempts = attempts

    async def search(self, collection: str, query: str, *, act_as: Identity | None = None, **body: Any) -> SearchTold:
        """See `Client.search`."""
        return await self._send(search_call(collection, SearchBody(query=query, **body), act_as))

    async def pages(
        self, collection: str, query: str, *, act_as: Identity | None = None, **body: Any
    ) -> AsyncIterator[SearchTold]:
        """See `Client.pages`."""
        asked = SearchBody(query=query, **{**body, "paged": True})
        while True:
            page = await self._send(search_call(collection, asked, act_as))
            yield page
            if page.cursor is None:
                return
            asked = asked.model_copy(update={"cursor": page.cursor, "offset": 0})

    async def document(
        self, collection: str, doc_id: str, *, offset: int = 0, limit: int = 50, act_as: Identity | None = None
    ) -> DocumentTold:
        """See `Client.document`."""
        return await self._send(document_call(collection, doc_id, offset, limit, act_as))

    async def collections(self, *, act_as: Identity | None = None) -> list[CollectionTold]:
        """See `Client.collections`."""
        return (await self._send(collections_call(act_as))).collections

    async def encode(self, texts: Sequence[str], signals: Sequence[str] | None = None) -> EncodeTold:
        """See `Client.encode`."""
        return await self._send(encode_call(texts, signals))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[Model]) -> Model:
        attempts = self._attempts()
        while True:
            try:
                response = await self._http.request(
                    call.method, call.path, json=call.body, params=dict(call.parameters), headers=call.headers()
                )
            except _httpx().TransportError as error:
                wait = attempts.wait()
                if wait is None:
                    raise unreachable(error) from None
            else:
                wait = wait_of(response, attempts)
                if wait is None:
                    return read(call, response)
            await asyncio.sleep(wait)


def _httpx() -> Any:
    if importlib.util.find_spec("httpx") is None:
        raise MissingExtraError("the client needs httpx, which is not installed", "pip install 'threefold[client]'")
    import httpx

    return httpx


def _options(address: str, key: str | None, timeout: float) -> dict[str, Any]:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    # No redirect is followed: it could lead a key elsewhere.
    return {"base_url": address, "headers": headers, "timeout": timeout, "follow_redirects": False}
