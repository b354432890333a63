"""Clients of one configured server, and what they raise as our errors.

A server's words may quote a payload or a query, so errors name its status only.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from connectors.address import address_of, certificates, place, settings_key
from connectors.protocol import RefusedByStoreError, StoreOptions, StoreTimeoutError
from connectors.secrets import read_secret
from m3core.errors import ConfigError, StoreError

# Shorter than the lease, so that a writer that was paused lands at most one late request.
REQUEST_SECONDS = 20
# Searches end at the caller's deadline; the client's own limit must only be later.
_SEARCH_SECONDS = 3600
# Metadata of a collection, which say what it was made for.
LEAST_VERSION = (1, 16)
_PORTS = {"http": 6333, "https": 6333}


def open_client(options: StoreOptions) -> QdrantClient:
    """A client for the writing side. Raises ConfigError."""
    with _quiet():
        return QdrantClient(**_settings(options), timeout=REQUEST_SECONDS)


def open_async_client(options: StoreOptions) -> AsyncQdrantClient:
    """A client for the reading side. Raises ConfigError."""
    with _quiet():
        return AsyncQdrantClient(**_settings(options), timeout=_SEARCH_SECONDS)


def collection_name(options: StoreOptions) -> str:
    """The physical name, behind the prefix of this installation."""
    return options.connection.prefix + options.schema.physical_name


def server_version(client: QdrantClient, options: StoreOptions) -> str:
    """The server's version; StoreError if it is too old or of another make."""
    with qdrant_errors(options):
        info = client.info()
    number = str(info.version)
    parts = number.split(".")
    known = "qdrant" in str(info.title).lower() and len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit()
    if not known or (int(parts[0]), int(parts[1])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise StoreError(
            f"store {options.name!r}: the server at {place(options)} is version {number[:20]!a}, "
            f"not Qdrant {least} or newer",
            'upgrade the server, or use kind = "qdrant-edge"',
        )
    return number


def server_clock(client: QdrantClient) -> float | None:
    """Seconds since the epoch by the Date header of an answer; None without one. Raises what the client raises."""
    dates: list[str] = []

    def note_date(request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
        response = send(request)
        dates.append(response.headers.get("date", ""))
        return response

    client.http.client.add_middleware(note_date)
    client.info()
    try:
        return parsedate_to_datetime(dates[-1]).timestamp()
    except ValueError:
        return None


@contextmanager
def qdrant_errors(options: StoreOptions) -> Iterator[None]:
    """Turn what the client raises into StoreError and StoreTimeoutError."""
    start = f"store {options.name!r}: the server at {place(options)}"
    try:
        yield
    except QdrantException:  # 429 with a Retry-After
        raise StoreError(f"{start} is busy (429)", "see its load; run again") from None
    except UnexpectedResponse as error:
        raise _refused(start, error.status_code, options) from None
    except ResponseHandlingException as error:
        raise _not_answered(start, error.source, options) from None


def _refused(start: str, status: int | None, options: StoreOptions) -> StoreError:
    if status in (401, 403):
        remedy = f"give it a key that may use {collection_name(options)}: {settings_key(options)}.api_key"
        return StoreError(f"{start} refused our credentials ({status})", remedy)
    if status == 404:
        return StoreError(f"{start} has no collection {collection_name(options)}", "run m3 ingest first")
    if status == 429:
        return StoreError(f"{start} is busy (429)", "see its load; run again")
    if status is not None and 400 <= status < 500 and status != 408:
        return RefusedByStoreError(f"{start} refuses this request ({status})", "see the server's log")
    return StoreError(f"{start} failed a request ({status})", "see the server's log; run again")


def _not_answered(start: str, cause: Exception, options: StoreOptions) -> StoreError:
    if isinstance(cause, httpx.TimeoutException):
        return StoreTimeoutError(f"{start} did not answer in time", "see whether it is overloaded; run again")
    if isinstance(cause, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(cause):
        return StoreError(f"{start} shows a certificate that is not trusted", f"set {settings_key(options)}.ca")
    if isinstance(cause, httpx.ConnectError):
        return StoreError(f"{start} cannot be reached", "start it, or correct the url")
    if isinstance(cause, httpx.TransportError):
        return StoreError(f"{start} closed the connection", "see whether it runs; run again")
    return StoreError(f"{start} sent an answer that cannot be read", "see what stands between; run again")


def _settings(options: StoreOptions) -> dict[str, Any]:
    connection, key = options.connection, settings_key(options)
    address, ca = address_of(options, _PORTS), certificates(options)
    if connection.username or connection.password:
        raise ConfigError(f"{key}.username is set; Qdrant knows keys only", f"use {key}.api_key")
    settings: dict[str, Any] = {
        "url": address.url,
        "port": address.port,
        "check_compatibility": False,  # ours is `server_version`; theirs asks in a thread and warns
        "trust_env": False,  # a key takes no way that the configuration does not name
    }
    if ca and address.secure:
        settings["verify"] = _context(ca, key)
    if connection.api_key:
        settings["api_key"] = read_secret(connection.api_key, f"{key}.api_key")
    return settings


def _context(ca: str, key: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ConfigError(f"{key}.ca: {ca!a} has no certificates", "name a file of PEM certificates") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The client warns of keys over http, which `address_of` allows to this machine only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        yield
