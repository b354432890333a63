"""Where a configured collection lies on this machine, and whether that is a copy of a bucket."""

from __future__ import annotations

from pathlib import Path

from connectors.registry import is_embedded
from m3core.config.model import Config
from m3core.errors import ConfigError
from pipelines.state import mirror
from pipelines.state.livecopy import attach_live
from pipelines.state.paths import StatePaths


def storage_of(config: Config, base: Path, *, fresh: bool = False, live: bool = False) -> Path:
    """The storage folder; `base` is the configuration's. With `fresh` a copy of a bucket is brought up to date first;
    with `live` others will write at the same time.

    ConfigError if the state is to be in a bucket while an embedded store has its rows in a folder of this machine: its
    snapshots and the bucket's records would part.
    """
    storage = (base / config.storage.path).absolute()
    embedded = [name for name, store in config.stores.items() if is_embedded(store.kind)]
    if config.storage.url and embedded:
        raise ConfigError(
            f"stores.{embedded[0]}.kind = {config.stores[embedded[0]].kind!r} keeps its rows in a folder of this "
            f"machine, but storage.url = {config.storage.url[:80]!r} shares the state with others",
            "use stores that are servers, or leave storage.url out",
        )
    if live and config.storage.url:
        attach_live(storage, config.storage.url)
    else:
        mirror.attach(storage, config.storage.url)
    if fresh:
        mirror.pull(StatePaths.of(storage, config.collection.name).root)
    return storage
