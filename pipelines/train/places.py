"""Where a run keeps what makes it resumable: a folder of its own under M3_HOME, never the work tree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3core.errors import LockedError
from m3core.home import m3_home
from pipelines.state.files import make_folder, write_atomic

_FOLDER = "training"


@dataclass(frozen=True)
class Place:
    """The folder of one run."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The last state."""
        return self.folder / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The parameters of the best measured step."""
        return self.folder / "best.pt"

    @property
    def precision(self) -> Path:
        """What `auto` came to: a machine may measure otherwise when the run goes on."""
        return self.folder / "precision.txt"

    @property
    def not_finite(self) -> Path:
        """The rows of the batch that broke the run."""
        return self.folder / "not-finite.json"

    def clear(self) -> None:
        """The run is done: its model is written."""
        shutil.rmtree(self.folder)


def place_of(key: str) -> Place:
    """The folder of the run with this key, which need not be there."""
    return Place(m3_home() / _FOLDER / key)


@contextmanager
def held_place(place: Place, identity: Mapping[str, Any]) -> Iterator[Place]:
    """The folder, made if absent, for this process alone. Raises LockedError while another one trains the same run."""
    from filelock import FileLock, Timeout

    make_folder(place.folder.parent)
    # Beside the folder: the run removes that at its end.
    lock = FileLock(place.folder.with_suffix(".lock"), timeout=0)
    try:
        with lock:
            make_folder(place.folder)
            write_atomic(place.folder / "run.json", (json.dumps(identity, indent=1) + "\n").encode())
            yield place
    except Timeout:
        raise LockedError(
            f"another process trains this very run ({place.folder})", "wait for it, or change an option"
        ) from None
