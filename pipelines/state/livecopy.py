"""The copy that an engine's launcher or worker has of a state in a bucket (`mirror.py`): others write at the same time.

What may have come since is looked for where it matters (`refresh`). Lake files are downloaded when they are read, and
the newest few GB of them stay. A worker's copy is a folder of its own and begins empty: whatever it opens is brought
then. The launcher's is `storage.path`; it pulls all but the lake.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from threading import RLock

from filelock import FileLock, Timeout

from pipelines.state.bucket import Bucket, Version
from pipelines.state.mirror import EXCHANGE, Mirror, register

LAKE_BYTES = 4 << 30
_LAKE_FILE = "state/*/lake/*/*.parquet"
_COPY = "m3-worker-"
_LOCK = ".lock"
_locks: dict[Path, FileLock] = {}  # as long as the process lives


@dataclass(frozen=True)
class LiveCopy(Mirror):
    """See `Mirror`. Threads share it. `lake_bytes`: how much of the lake it keeps."""

    lake_bytes: int = LAKE_BYTES
    _versions: dict[str, Version] = field(default_factory=dict, repr=False, compare=False)
    _sizes: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    _held: OrderedDict[str, int] = field(default_factory=OrderedDict, repr=False, compare=False)
    _changing: RLock = field(default_factory=RLock, repr=False, compare=False)

    def wants(self, key: str) -> bool:
        """Vectors are brought when they are read."""
        return super().wants(key) and not fnmatchcase(key, _LAKE_FILE)

    def upload(self, path: Path, source: Path, *, create: bool = False) -> None:
        """See `Mirror`."""
        size = source.stat().st_size
        super().upload(path, source, create=create)
        self._hold(path, size)

    def pull(self, collection: str) -> int:
        """See `Mirror`; what was there before counts as known."""
        count = super().pull(collection)
        self._versions.update(self._known())
        return count

    def complete(self, collection: str) -> None:
        """Bring the lake too."""
        Mirror(self.root, self.bucket).pull(collection)

    def refresh(self, folder: Path, pattern: str) -> None:
        """Bring the files of a folder that match up to date; those that are gone go here too."""
        with self._changing:
            there = {
                key: version
                for key, version in self.bucket.children(self.key(folder))
                if fnmatchcase(Path(key).name, pattern) and self.keeps(self.root / key)
            }
            for key, version in there.items():
                if self._versions.get(key) != version or not (self.root / key).exists():
                    self.download(self.root / key)
                    self._versions[key] = version
            known = [key for key in self._versions if (self.root / key).parent == folder]
            for key in known:
                if key not in there and fnmatchcase(Path(key).name, pattern):
                    del self._versions[key]
                    (self.root / key).unlink(missing_ok=True)

    def size(self, path: Path) -> int:
        """Bytes of a file, asked of the bucket once where it is not here."""
        try:
            return super().size(path)
        except FileNotFoundError:
            key = self.key(path)
            if key not in self._sizes:
                seen = self.bucket.look(key) if self.keeps(path) else None
                if seen is None:
                    raise
                self._sizes[key] = seen[0]
            return self._sizes[key]

    def names(self, folder: Path, pattern: str) -> set[str]:
        """Those in the bucket."""
        names = (Path(key).name for key, _ in self.bucket.children(self.key(folder)))
        return {name for name in names if fnmatchcase(name, pattern)}

    def download(self, path: Path) -> None:
        """See `Mirror`; room is made for vectors."""
        super().download(path)
        if path.exists():
            self._hold(path, path.stat().st_size)

    def _note(self, entries: Iterable[tuple[str, Version]]) -> None:
        noted = list(entries)
        self._versions.update(noted)
        super()._note((key, version) for key, version in noted if f"/{EXCHANGE}/" not in key)

    def _hold(self, path: Path, size: int) -> None:
        key = self.key(path)
        if not fnmatchcase(key, _LAKE_FILE):
            return
        with self._changing:
            self._held[key] = size
            self._held.move_to_end(key)
            while sum(self._held.values()) > self.lake_bytes and len(self._held) > 1:
                oldest, _ = self._held.popitem(last=False)
                (self.root / oldest).unlink(missing_ok=True)


def attach_live(root: Path, url: str) -> None:
    """From now on the state below `root` is a copy of the bucket's at `url` that others write too."""
    register(LiveCopy(root, Bucket.open(url)))


def copy_of_this_process(url: str) -> Path:
    """A live copy in a temporary folder, gone when the process ends; what killed processes have left is removed."""
    temporary = Path(tempfile.gettempdir())
    for left in temporary.glob(f"{_COPY}*"):
        with suppress(Timeout, OSError), FileLock(left / _LOCK, timeout=0):  # another user's stays, and a living one's
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=".tmp-m3-"))
    held = FileLock(made / _LOCK)
    held.acquire()
    folder = made.rename(temporary / f"{_COPY}{made.name.removeprefix('.tmp-m3-')}")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    attach_live(folder, url)
    _locks[folder] = held
    return folder
