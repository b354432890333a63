"""From a store's table in the configuration to what connectors need, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from connectors.protocol import Connection
from connectors.registry import needs_server, signals_of
from m3core.config.model import StoreSection
from m3core.errors import ConfigError


def connection_of(section: StoreSection, base: Path) -> Connection:
    """How to reach the store. Relative files are relative to `base`, the configuration's folder; no secret is read."""
    return Connection(
        url=section.url,
        prefix=section.prefix,
        api_key=_placed(section.api_key, base),
        username=section.username,
        password=_placed(section.password, base),
        ca=str(base / Path(section.ca).expanduser()) if section.ca else "",
    )


def check_stores(stores: Mapping[str, StoreSection]) -> None:
    """Every store can keep what it is asked to keep, and has an address if it needs one. Raises ConfigError."""
    for name, store in stores.items():
        known = signals_of(store.kind)
        others = [signal for signal in store.signals if signal not in known]
        if others:
            raise ConfigError(
                f"stores.{name}.signals has {', '.join(others)}; stores of kind {store.kind} keep {', '.join(known)}",
                "give them to another store",
            )
        if needs_server(store.kind) != bool(store.url):
            missing = not store.url
            raise ConfigError(
                f"stores.{name}.url is {'missing' if missing else 'set'}; stores of kind {store.kind} "
                + ("are servers" if missing else "are not servers"),
                "add the server's address" if missing else "leave it out",
            )


def _placed(reference: str, base: Path) -> str:
    kind, _, path = reference.partition(":")
    return f"file:{base / Path(path).expanduser()}" if kind == "file" else reference
