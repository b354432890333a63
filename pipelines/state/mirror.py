"""A state folder whose truth is a bucket (`storage.url`), and whose local folder (`storage.path`) is a work copy.

*What is where.* `state/` and `tombstones/` are in the bucket, under the same names; everything else below
`storage.path` is this machine's alone: `runs/<run>/work`, names that begin with `.tmp-`, locks, keys and audit log of
the service. The cells (`collection.json`, `lease.json`, `manifest.json`) are only in the bucket: they are read there
every time and replaced by conditional put (`cell.py`). All other files are written whole, nearly all of them once.

*Writing.* A file is uploaded before it gets its local name (`files.py`), so what has its name here is in the bucket;
what is removed here is removed there. *Reading* is local, which keeps memory-mapped Parquet and DuckDB's joins as they
are. `pull` brings the copy up to date: a writer pulls when it has taken the lease, a reader when it begins. What
another machine removed goes here too, if this copy had it from the bucket; `.mirror` remembers that, a line per file.

*What this costs*: every machine that writes keeps a whole copy of the collection's state, and the first run of a new
machine downloads it (the vectors of 41,000 passages are 2 GB). A purge erases the bucket and the copy of the machine
that carried it out; other copies lose the rows with their next pull. An engine's launcher and workers keep less:
`livecopy.py`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

from pipelines.state.bucket import Bucket, ChangedError, Version

_MIRRORED = ("state", "tombstones")
_CELLS = ("collection.json", "lease.json", "manifest.json")
_WORK = "work"
# What launcher and workers of an engine tell each other: in the bucket, and in nobody else's copy.
EXCHANGE = "exchange"
_TEMPORARY = ".tmp-"
_INDEX = ".mirror"
_AT_ONCE = 8


@dataclass(frozen=True)
class Mirror:
    """`root` is the local storage folder."""

    root: Path
    bucket: Bucket
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def keeps(self, path: Path) -> bool:
        """Whether a file's truth is in the bucket, cells aside."""
        parts = path.relative_to(self.root).parts
        return not (
            parts[0] not in _MIRRORED
            or path.name in _CELLS
            or path.name.endswith(".lock")
            or (_WORK in parts[:-1] and EXCHANGE not in parts[:-1])
            or any(part.startswith(_TEMPORARY) for part in parts)
        )

    def key(self, path: Path) -> str:
        """The object of a file."""
        return path.relative_to(self.root).as_posix()

    def wants(self, key: str) -> bool:
        """Whether `pull` brings an object."""
        return self.keeps(self.root / key) and f"/{EXCHANGE}/" not in key

    def upload(self, path: Path, source: Path, *, create: bool = False) -> None:
        """Put the bytes of `source` where `path` belongs. With `create`, FileExistsError if it is there; the copy has
        the bucket's file then."""
        if not self.keeps(path):
            return
        if not create:
            self._note([(self.key(path), self.bucket.put(self.key(path), source))])
            return
        try:
            self._note([(self.key(path), self.bucket.replace(self.key(path), source, None))])
        except ChangedError:
            self._download(self.key(path))
            raise FileExistsError(str(path)) from None

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files from the bucket."""
        self.bucket.delete([self.key(path) for path in paths if self.keeps(path)])

    def remove_below(self, folder: Path) -> None:
        """Remove everything below a folder from the bucket."""
        self.bucket.delete([key for key, _, _ in self.bucket.list(self.key(folder) + "/")])

    def rename(self, path: Path, new: Path) -> None:
        """What `path` holds is `new` in the bucket."""
        self.upload(new, path)
        self.remove([path])

    def complete(self, collection: str) -> None:
        """Bring everything of a collection; it is there."""

    def refresh(self, folder: Path, pattern: str) -> None:
        """Nobody else writes: the copy is as new as when it was pulled."""

    def size(self, path: Path) -> int:
        """Bytes of a file; FileNotFoundError."""
        return path.stat().st_size

    def names(self, folder: Path, pattern: str) -> set[str]:
        """Names of the files in a folder that match."""
        return {path.name for path in folder.glob(pattern)}

    def download(self, path: Path) -> None:
        """One file, if the bucket has it; its version stays unknown, so that the next pull takes it again."""
        self._download(self.key(path))

    def pull(self, collection: str) -> int:
        """Bring the copy of one collection up to date; how many files were downloaded."""
        known = self._known()
        there: dict[str, Version] = {}
        for top in _MIRRORED:
            for key, size, version in self.bucket.list(f"{top}/{collection}/"):
                if self.wants(key):
                    there[key] = version
                    if known.get(key) == version and _size(self.root / key) != size:
                        del known[key]
        kept = {key: at for key, at in known.items() if key.split("/")[1] != collection or not self.wants(key)}
        for key in known.keys() - there.keys() - kept.keys():
            (self.root / key).unlink(missing_ok=True)
        wanted = [key for key, version in there.items() if known.get(key) != version]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._download, wanted))
        self._write_index({**kept, **there})
        return len(wanted)

    @cached_property
    def _index(self) -> Path:
        return self.root / _INDEX

    def _download(self, key: str) -> None:
        found = self.bucket.get(key)
        if found is None:
            return  # removed since it was listed; the next pull sees it
        path = self.root / key
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Threads of a process may fetch the same file: each needs a name of its own.
        temporary = path.parent / f"{_TEMPORARY}{path.name}-{secrets.token_hex(8)}-pull"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(found[0])
        temporary.replace(path)

    def _known(self) -> dict[str, Version]:
        """What the copy had from the bucket, by key; the last line counts."""
        return dict(self._lines())

    def _lines(self) -> Iterator[tuple[str, Version]]:
        if not self._index.exists():
            return
        for line in self._index.read_text(encoding="utf-8").splitlines():
            key, _, version = line.partition("\t")
            if version:  # the last line may be cut off; its file is downloaded again
                yield key, Version.parse(version)

    def _note(self, entries: Iterable[tuple[str, Version]]) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock, self._index.open("a", encoding="utf-8") as file:
            file.writelines(f"{key}\t{version}\n" for key, version in entries)

    def _write_index(self, entries: dict[str, Version]) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._index.with_name(f"{_TEMPORARY}mirror-{os.getpid()}")
        temporary.write_text("".join(f"{key}\t{version}\n" for key, version in sorted(entries.items())), "utf-8")
        temporary.replace(self._index)


_mirrors: dict[Path, Mirror] = {}


def attach(root: Path, url: str) -> None:
    """From now on the state below `root` is a copy of the bucket's at `url`; without one it is the truth itself."""
    if not url:
        _mirrors.pop(root, None)
    elif type(_mirrors.get(root)) is not Mirror or _mirrors[root].bucket.url != url:
        _mirrors[root] = Mirror(root, Bucket.open(url))


def register(mirror: Mirror) -> None:
    """From now on the state below the mirror's root is this copy."""
    _mirrors[mirror.root] = mirror


def mirror_of(path: Path) -> Mirror | None:
    """The mirror that a file lies in; None if its folder is the truth itself."""
    if not _mirrors:
        return None
    return next((_mirrors[parent] for parent in path.parents if parent in _mirrors), None)


def pull(folder: Path) -> None:
    """Bring the state folder of a collection up to date, if it is a copy."""
    if (mirror := mirror_of(folder)) is not None:
        mirror.pull(folder.name)


def complete(folder: Path) -> None:
    """Bring what a copy of the state folder of a collection leaves to later."""
    if (mirror := mirror_of(folder)) is not None:
        mirror.complete(folder.name)


def fetch(path: Path) -> None:
    """Download a file of the state that its copy has not yet, if the bucket has it."""
    if not path.exists() and (mirror := mirror_of(path)) is not None:
        mirror.download(path)


def refresh(folder: Path, pattern: str = "*") -> None:
    """Bring what others may have written into a folder meanwhile, by names; only where others do, and nothing below."""
    if (mirror := mirror_of(folder / pattern)) is not None:
        mirror.refresh(folder, pattern)


def size_of(path: Path) -> int:
    """Bytes of a file of the state, be it here or in the bucket only; FileNotFoundError."""
    mirror = mirror_of(path)
    return path.stat().st_size if mirror is None else mirror.size(path)


def names_in(folder: Path, pattern: str) -> set[str]:
    """Names of the files in a folder of the state that match, be they here or in the bucket only."""
    mirror = mirror_of(folder / pattern)
    return {path.name for path in folder.glob(pattern)} if mirror is None else mirror.names(folder, pattern)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
