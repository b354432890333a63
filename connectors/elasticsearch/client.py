"""Clients of one configured server, and what they raise as our errors.

A server's reason may quote a document or a query, so errors name its type and status only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from elastic_transport import ConnectionError as TransportConnectionError
from elastic_transport import ConnectionTimeout, SerializationError, TlsError, TransportError
from elasticsearch import ApiError, AsyncElasticsearch, Elasticsearch, UnsupportedProductError

from connectors.address import address_of, certificates, place, settings_key
from connectors.protocol import Connection, RefusedByStoreError, StoreOptions, StoreTimeoutError
from connectors.secrets import read_secret
from m3core.errors import StoreError

# It warns of every failed request; what fails for good is an error of ours.
logging.getLogger("elastic_transport.node_pool").setLevel(logging.ERROR)

# Shorter than the lease, so that a writer that was paused lands at most one late request.
REQUEST_SECONDS = 20.0
# The sparse_vector query with `prune: false`.
LEAST_VERSION = (8, 15)
_PORTS = {"http": 9200, "https": 443}


def open_client(options: StoreOptions) -> Elasticsearch:
    """A client for the writing side. Raises ConfigError."""
    return Elasticsearch(**_settings(options))


def open_async_client(options: StoreOptions) -> AsyncElasticsearch:
    """A client for the reading side. Raises ConfigError."""
    return AsyncElasticsearch(**_settings(options))


def index_name(options: StoreOptions) -> str:
    """The physical name, behind the prefix of this installation."""
    return options.connection.prefix + options.schema.physical_name


def check_version(info: dict[str, Any], options: StoreOptions) -> str:
    """The server's version; StoreError if it is too old or of another make."""
    version = info.get("version", {})
    number = str(version.get("number", ""))
    parts = number.split(".")
    known = len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit()
    if not known or (int(parts[0]), int(parts[1])) < LEAST_VERSION:
        raise StoreError(
            f"store {options.name!r}: the server at {place(options)} is version {number[:20]!a}, not 8.15 or newer",
            "upgrade the server, or keep lexical weights in another store",
        )
    return number


@contextmanager
def es_errors(options: StoreOptions) -> Iterator[None]:
    """Turn what the client raises into StoreError and StoreTimeoutError."""
    start = f"store {options.name!r}: the server at {place(options)}"
    try:
        yield
    except ConnectionTimeout:
        raise StoreTimeoutError(f"{start} did not answer in time", "see whether it is overloaded; run again") from None
    except TlsError:
        raise StoreError(
            f"{start} shows a certificate that is not trusted", f"set {settings_key(options)}.ca"
        ) from None
    except UnsupportedProductError:
        raise StoreError(f"{start} is no Elasticsearch 8.15 or newer", "check the url") from None
    except ApiError as error:
        raise _refused(start, error, options) from None
    except SerializationError:
        raise StoreError(f"{start} sent an answer that cannot be read", "see what stands between; run again") from None
    except TransportConnectionError:
        raise StoreError(f"{start} cannot be reached", "start it, or correct the url") from None
    except TransportError as error:
        raise StoreError(f"{start}: {type(error).__name__}", "see whether it runs; run again") from None


def error_type(body: object) -> str:
    """The type of a server's error, which quotes nothing: `mapper_parsing_exception`."""
    error = body.get("error", body) if isinstance(body, dict) else body
    found = error.get("type", "") if isinstance(error, dict) else ""
    return str(found)[:60] if str(found).replace("_", "").isalnum() else "unknown error"


def _refused(start: str, error: ApiError, options: StoreOptions) -> StoreError:
    status, kind = error.meta.status, error_type(error.body)
    if status in (401, 403):
        remedy = f"give it a key that may use the index {index_name(options)}: {settings_key(options)}.api_key"
        return StoreError(f"{start} refused our credentials ({status})", remedy)
    if kind == "index_not_found_exception":
        return StoreError(f"{start} has no index {index_name(options)}", "run m3 ingest first")
    if kind == "media_type_header_exception":
        return StoreError(f"{start} is older than our client", "pip install 'elasticsearch[async]<9'")
    if status == 429:
        return StoreError(f"{start} is busy (429 {kind})", "see its load and disk; run again")
    if 400 <= status < 500 and status != 408:
        return RefusedByStoreError(f"{start} refuses this request ({status} {kind})", "see the server's log")
    return StoreError(f"{start} failed a request ({status} {kind})", "see the server's log; run again")


def _settings(options: StoreOptions) -> dict[str, Any]:
    connection, key = options.connection, settings_key(options)
    address, ca = address_of(options, _PORTS), certificates(options)
    settings: dict[str, Any] = {
        "hosts": [address.url],
        "request_timeout": REQUEST_SECONDS,
        "max_retries": 0,
        "retry_on_timeout": False,
    }
    if ca and address.secure:
        settings["ca_certs"] = ca
    return settings | _credentials(connection, key)


def _credentials(connection: Connection, key: str) -> dict[str, Any]:
    if connection.api_key:
        return {"api_key": read_secret(connection.api_key, f"{key}.api_key")}
    if connection.username:
        return {"basic_auth": (connection.username, read_secret(connection.password, f"{key}.password"))}
    return {}
