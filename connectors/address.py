"""A configured server's address and certificates, checked before a client is made; no error shows a secret."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from connectors.protocol import StoreOptions
from m3core.errors import ConfigError


@dataclass(frozen=True)
class Address:
    """Where a server listens. `path` is what stands in front of its API."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """In full, its port included."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.path}"


def settings_key(options: StoreOptions) -> str:
    """The store's table in the configuration: `stores.main`."""
    return f"stores.{options.name}"


def place(options: StoreOptions) -> str:
    """Host and port as they are configured, for errors."""
    return urlsplit(options.connection.url).netloc


def address_of(options: StoreOptions, ports: Mapping[str, int]) -> Address:
    """The address in the options; `ports` are those of http and https where it names none.

    Raises ConfigError, also for a secret that would travel over http to another machine.
    """
    connection, key = options.connection, settings_key(options)
    url = urlsplit(connection.url)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.password:
        raise ConfigError(f"{key}.url is not http(s)://HOST:PORT without credentials", "write it so")
    secure = url.scheme == "https"
    if (connection.api_key or connection.password) and not secure and not _is_loopback(url.hostname):
        raise ConfigError(f"{key}.url would send a secret over http", "use https")
    return Address(secure, url.hostname, url.port or ports[url.scheme], url.path)


def certificates(options: StoreOptions) -> str:
    """The file of certificates to trust, "" for the system's. Raises ConfigError if it is not there."""
    ca = options.connection.ca
    if ca and not Path(ca).is_file():
        raise ConfigError(f"{settings_key(options)}.ca: there is no file {ca!a}", "name a file of PEM certificates")
    return ca


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
