"""What a collection takes on disk, while others may write it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from m3core.disk import bytes_on_disk, free_bytes
from pipelines.operate.collection import Place


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk; holes take nothing. `stores` by name, servers not among them. `total` is that of the disk."""

    lake: int
    chunks: int
    manifest: int
    runs: int
    stores: dict[str, int]
    free: int
    total: int

    def as_json(self) -> dict[str, object]:
        """In the order of the fields."""
        return {
            "lake": self.lake,
            "chunks": self.chunks,
            "manifest": self.manifest,
            "runs": self.runs,
            "stores": dict(self.stores),
            "free": self.free,
        }


def measure(place: Place, embedded: list[str]) -> Sizes:
    """Sizes of the state folder and of the embedded stores."""
    root = place.paths.root
    return Sizes(
        lake=disk_bytes(root / "lake"),
        chunks=disk_bytes(root / "chunks"),
        manifest=disk_bytes(root / "manifest"),
        runs=disk_bytes(root / "runs"),
        stores={name: disk_bytes(place.store_folder(name)) for name in embedded},
        free=free_bytes(place.storage),
        total=_disk_total(place.storage),
    )


def disk_bytes(folder: Path) -> int:
    """What the files below `folder` take, one with several names once; what disappears meanwhile takes nothing."""
    return bytes_on_disk(_files(folder))


def _files(folder: Path) -> Iterator[os.stat_result]:
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(path, name))  # noqa: PTH118 - a million files, quickly


def _disk_total(folder: Path) -> int:
    there = next(part for part in (folder, *folder.parents) if part.exists())
    found = os.statvfs(there)
    return found.f_blocks * found.f_frsize
