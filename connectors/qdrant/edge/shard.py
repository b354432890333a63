"""Opening an Edge shard, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as edge

from m3core.errors import M3Error, StoreError

_SHOWN = 200


@contextmanager
def shard_errors(store: str) -> Iterator[None]:
    """Turn what Edge raises into StoreError. Edge raises plain Exception, and on a damaged folder a Rust panic."""
    try:
        yield
    except M3Error:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:_SHOWN]
        raise StoreError(
            f"store {store!r}: qdrant-edge: {reason}", "run again; if it stays, rebuild the store"
        ) from error


def load_shard(folder: Path, store: str, config: edge.EdgeConfig | None = None) -> edge.EdgeShard:
    """Open the shard in `folder` with the settings that it was made with, or with others from now on. Raises
    StoreError."""
    with shard_errors(store):
        return edge.EdgeShard.load(str(folder), config)
