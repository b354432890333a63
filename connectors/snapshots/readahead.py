"""Files of a snapshot read into the system's cache before a search needs them and waits for the disk."""

from __future__ import annotations

import threading
from pathlib import Path

from connectors.snapshots.disk import allocated_bytes

_STEP = 1 << 20
# More of the free memory than this is left to others.
_SHARE = 0.5
_MEMORY = Path("/proc/meminfo")


class ReadAhead:
    """A thread that reads the files below `folder` once, if they take less than half of the memory that is free."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="m3-read-ahead", daemon=True)
        self._thread.start()

    def wait(self, timeout: float) -> None:
        """Until all is read, or so many seconds."""
        self._thread.join(max(0.0, timeout))

    def stop(self) -> None:
        """End it; idempotent. Returns when no file is open any more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        buffer = bytearray(_STEP)
        try:
            if allocated_bytes(self._folder) > _SHARE * _free_memory():
                return
            for path in sorted(self._folder.rglob("*")):
                if path.is_file():
                    self._read(path, buffer)
        except OSError:
            return  # nobody waits for it: a search that meets the same error says so

    def _read(self, path: Path, buffer: bytearray) -> None:
        with path.open("rb", buffering=0) as file:
            while not self._stopped.is_set() and file.readinto(buffer):
                pass


def _free_memory() -> int:
    """Bytes that programs could still have; 0 where the system does not say."""
    if not _MEMORY.exists():
        return 0
    lines = (line.split() for line in _MEMORY.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), 0)
