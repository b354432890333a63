"""Whether somebody listens at an address, said before a job is started."""

from __future__ import annotations

import ipaddress
import socket

from pipelines.ingest.runners.engine import EngineError

_SECONDS = 5.0


def check_reachable(key: str, address: str, remedy: str) -> None:
    """EngineError if nobody listens at HOST:PORT. `key` is the setting that names it."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise EngineError(f"{key}: nobody listens at {address} ({reason})", remedy) from None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: then what it names can be tried from here."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
