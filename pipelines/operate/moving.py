"""Damaged files of the state folder, moved aside so that nobody reads them again."""

from __future__ import annotations

from pathlib import Path

from pipelines.operate.collection import Collection
from pipelines.operate.lake_check import sound_keys
from pipelines.state.chunks import read_keys
from pipelines.state.files import DamagedError, sync_folder


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
        _move(path)
        return True
    return False


def _move(path: Path) -> None:
    path.rename(path.with_name(path.name + ".damaged"))
    sync_folder(path.parent)
