"""Damaged files of the state folder, moved aside so that nobody reads them again."""

from __future__ import annotations

from pipelines.operate.collection import Collection
from pipelines.operate.lake_check import sound_keys
from pipelines.state.chunks import read_keys
from pipelines.state.files import DamagedError, move_aside


def move_damaged(collection: Collection, name: str) -> bool:
    """Rename a lake or chunk file to `<name>.damaged` if it is damaged indeed; whether it was.

    `name` is its path below the state folder; one that leads elsewhere is not touched.
    """
    root = collection.paths.root
    path = root / name
    lake = collection.paths.lake(collection.generation.encoder_fingerprint)
    chunks = collection.paths.chunks(collection.generation.number)
    try:
        if path.parent == lake:
            sound_keys(path, lake.name)
        elif path.parent.parent == chunks:
            read_keys(path)
    except FileNotFoundError:
        return False
    except DamagedError:
        move_aside(path)
        return True
    return False
