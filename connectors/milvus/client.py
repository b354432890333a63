"""One client of a configured server, and what it raises as our errors.

A server's reason may quote a filter or a row, so errors name its code only; pymilvus logs every reason, so its loggers
are silenced: what fails for good is an error of ours.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from pymilvus import MilvusClient, MilvusException

from connectors.address import address_of, certificates, place, settings_key
from connectors.milvus.codes import Code, code_of
from connectors.milvus.schema import Collection, Layout, collections_of
from connectors.protocol import RefusedByStoreError, StoreOptions, StoreTimeoutError
from connectors.secrets import read_secret
from m3core.errors import ConfigError, StoreError

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

_T = TypeVar("_T")
# Shorter than the lease, so that a writer that was paused lands at most one late request.
REQUEST_SECONDS = 20.0
_CONNECT_SECONDS = 10.0
_LOAD_SECONDS = 300.0
# The first with arrays of structs, and the oldest that the suite is meant for.
LEAST_VERSION = (2, 6, 4)
_LEAST_LITE = (3, 2)
_LITE = "milvus_lite-"
_SHOWN_LITE = " (Milvus Lite)"
_PORTS = {"http": 19530, "https": 443}
# A channel that is made anew tries at once; otherwise it would share the waits of the one that failed.
_CHANNEL = {"grpc.use_local_subchannel_pool": 1}


class Milvus:
    """A connection to the server of one store, opened at the first request. Threads may share it.

    What the server is decides how multi-vectors lie there, and so which collections it has to have loaded before it
    answers; one that was restarted may have to be told (Milvus Lite forgets).
    """

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._opened: MilvusClient | None = None
        self._layout = Layout.PACKED if _is_in_process(options) else None
        self._lock = threading.Lock()

    def version(self, seconds: float = REQUEST_SECONDS) -> str:
        """What the server says that it is. Raises what `ask` raises, and StoreError if it is too old."""
        told = self.ask(lambda client, left: str(client.get_server_version(timeout=left)), seconds)
        shown = check_version(told, self._options)
        self._layout = _layout_of(shown)
        return shown

    def layout(self, seconds: float = REQUEST_SECONDS) -> Layout:
        """How multi-vectors lie on this server; asked once. Raises what `version` raises."""
        if self._layout is None:
            self._layout = _layout_of(self.version(seconds))
        return self._layout

    def collections(self, seconds: float = REQUEST_SECONDS) -> tuple[Collection, ...]:
        """Those of the store, the main one first. Raises what `ask` raises."""
        return collections_of(self._options.schema, collection_name(self._options), self.layout(seconds))

    def ask(self, request: Callable[[MilvusClient, float], _T], seconds: float = REQUEST_SECONDS) -> _T:
        """What `call` answers. Raises StoreError, StoreTimeoutError, ConfigError."""
        with self.errors():
            return self.call(request, seconds)

    def call(self, request: Callable[[MilvusClient, float], _T], seconds: float) -> _T:
        """`request(client, seconds left)`, once more if the collections had to be loaded first.

        Raises what the client raises, and ConfigError.
        """
        deadline = time.monotonic() + seconds
        client = self._client(_left(deadline))
        try:
            return request(client, _left(deadline))
        except MilvusException as error:
            if code_of(error) is not Code.NOT_LOADED:
                raise
        self.load(client, _left(deadline))
        return request(client, _left(deadline))

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the client raises into StoreError and StoreTimeoutError."""
        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            raise _ours(code_of(error), error, self._options) from None

    def load(self, client: MilvusClient, seconds: float = _LOAD_SECONDS) -> None:
        """Have the server load the collections; returns when it has."""
        for collection in self.collections(seconds):
            client.load_collection(collection.name, timeout=seconds)

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            client, self._opened = self._opened, None
        if client is not None:
            client.close()

    def _client(self, seconds: float) -> MilvusClient:
        with self._lock:
            if self._opened is None:
                self._opened = MilvusClient(**_settings(self._options), timeout=min(_CONNECT_SECONDS, seconds))
            return self._opened


def collection_name(options: StoreOptions) -> str:
    """The physical name, behind the prefix of this installation. Raises ConfigError."""
    prefix = options.connection.prefix
    if not re.fullmatch(r"[A-Za-z0-9_]*", prefix):
        raise ConfigError(
            f"{settings_key(options)}.prefix {prefix[:40]!a}: names of Milvus have letters, digits and _ only",
            "change it",
        )
    return prefix + options.schema.physical_name


def check_version(version: str, options: StoreOptions) -> str:
    """The server's version as it begins with its number; StoreError if it is too old."""
    lite = version.startswith(_LITE)
    number = version.removeprefix(_LITE).removeprefix("v")
    least = _LEAST_LITE if lite else LEAST_VERSION
    if tuple(map(int, re.findall(r"\d+", number)[: len(least)])) < least:
        floor = ".".join(map(str, least))
        raise StoreError(
            f"store {options.name!r}: the server at {place(options)} is version {version[:30]!a}, not {floor} or newer",
            "upgrade the server, or keep the vectors in another store",
        )
    return f"{number}{_SHOWN_LITE}" if lite else number


def _layout_of(shown: str) -> Layout:
    return Layout.PACKED if shown.endswith(_SHOWN_LITE) else Layout.STRUCTS


def _ours(code: Code, error: Exception, options: StoreOptions) -> StoreError:
    start = f"store {options.name!r}: the server at {place(options)}"
    if code is Code.LATE:
        return StoreTimeoutError(f"{start} did not answer in time", "see whether it is overloaded; run again")
    if code is Code.UNREACHABLE:
        return StoreError(f"{start} cannot be reached", f"start it, or correct {settings_key(options)}.url (and .ca)")
    if code is Code.REFUSED_US:
        return StoreError(
            f"{start} refused our credentials", f"give it a token that may do this: {settings_key(options)}.api_key"
        )
    if code is Code.NO_COLLECTION:
        return StoreError(f"{start} has no collection {collection_name(options)}", "run m3 ingest first")
    number = getattr(error, "code", "")
    shown = number if isinstance(number, int) else type(error).__name__
    if code is Code.BAD_INPUT:
        return RefusedByStoreError(f"{start} refuses this request (code {shown})", "see the server's log")
    return StoreError(f"{start} failed a request (code {shown})", "see the server's log; run again")


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _is_in_process(options: StoreOptions) -> bool:
    """Whether this is Milvus Lite behind a socket of ours."""
    return options.connection.url.startswith("unix:")


def _settings(options: StoreOptions) -> dict[str, Any]:
    if _is_in_process(options):
        return {"uri": options.connection.url, "dedicated": True, "grpc_options": _CHANNEL}
    connection, key = options.connection, settings_key(options)
    if "://" not in connection.url:
        raise ConfigError(
            f"{key}.url is not http(s)://HOST:PORT", 'for Milvus Lite in a folder set kind = "milvus-lite" and no url'
        )
    address = address_of(options, _PORTS)
    if address.path.strip("/"):
        raise ConfigError(f"{key}.url has a path, and Milvus has none", "write http(s)://HOST:PORT")
    settings: dict[str, Any] = {
        "uri": address.url,
        "dedicated": True,
        "secure": address.secure,
        "grpc_options": _CHANNEL,
    }
    if address.secure and (ca := certificates(options)):
        settings["server_pem_path"] = ca
    if connection.api_key:
        settings["token"] = read_secret(connection.api_key, f"{key}.api_key")
    elif connection.username:
        settings["token"] = f"{connection.username}:{read_secret(connection.password, f'{key}.password')}"
    return settings
