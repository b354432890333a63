"""Which files make up a manifest, and how waves and compactions are committed. `manifest/g<generation>/` holds

`manifest.json`, kind `threefold.manifest`, format 1: the base, replaced by compare-and-swap
    shards        number of shards; fixed when the manifest is made
    run, wave     the last wave that the base holds; 0, 0 at first
    files         list of {first_shard, last_shard, name, rows, bytes, sha256}: which shards the file holds; together
                  every shard once, ascending (no files at all: no rows). Few files while a collection is small

`delta-<run>-<wave>.json`, kind `threefold.delta`, format 1: one committed wave, created once, never replaced
    run, wave     the wave; runs and waves only grow
    previous      [run, wave] of the delta before, or of the base
    files         as above, except that the shards of its files may overlap

`data/*.parquet`: the rows (`manifest.py`). What no listing names does not count.

A wave is committed by its delta's JSON, so it is there whole or not at all. Deltas up to the base's wave were folded in
and await removal. The others form a chain by `previous`. Starting from the newest, every link must be there: a missing
delta before it is noticed. A delta off the chain was written by a run that had lost its lease: it does not count,
because the next run had gone on without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m3core.errors import StateError
from pipelines.state.cell import CellConflictError, cell_at
from pipelines.state.files import (
    create_if_absent,
    damaged,
    decode_json,
    encode_json,
    make_folder,
    read_json,
    remove_files,
    sha256_of,
)
from pipelines.state.mirror import fetch, refresh

FORMAT = 1
SHARDS = 256
_BASE_KIND = "threefold.manifest"
_DELTA_KIND = "threefold.delta"
_DELTA_NAME = re.compile(r"delta-([0-9]{6,})-([0-9]{5,})\.json")

Wave = tuple[int, int]


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of rows, as listed."""

    first_shard: int
    last_shard: int
    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Delta:
    """One committed wave."""

    wave: Wave
    previous: Wave
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Listing:
    """What the manifest consists of. `version` is that of the base (None: nothing was written yet)."""

    shards: int
    covers: Wave
    base: tuple[DataFile, ...]
    deltas: tuple[Delta, ...]
    version: str | None

    @property
    def last(self) -> Wave:
        """The newest committed wave."""
        return self.deltas[-1].wave if self.deltas else self.covers

    @property
    def delta_files(self) -> tuple[DataFile, ...]:
        """Data files of all deltas."""
        return tuple(file for delta in self.deltas for file in delta.files)

    @property
    def files(self) -> tuple[DataFile, ...]:
        """All data files."""
        return self.base + self.delta_files


class ManifestFolder:
    """The files of one manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._base = folder / "manifest.json"
        self._cell = cell_at(self._base)
        self._verified: set[str] = set()
        self._deltas: dict[str, Delta] = {}  # never replaced once written

    def listing(self) -> Listing:
        """What is committed now. StateError if a file of it is damaged or missing."""
        while True:
            current = self._cell.read()
            shards, covers, base = self._read_base(current[0] if current else None)
            deltas = self._chain([self._read_delta(name) for name in self._delta_names() if _wave_of(name) > covers])
            if self._cell.read() != current:
                continue  # a compaction came between
            if current is None and deltas:
                raise damaged(self._base, "it is missing, but deltas are there")
            if deltas and deltas[0].previous != covers:
                raise damaged(self.folder, f"{_delta_name(deltas[0].previous)} is missing")
            version = current[1] if current else None
            return Listing(shards, covers, base, deltas, version)

    def create(self) -> None:
        """Write an empty base if there is none."""
        make_folder(self.data)
        if self._cell.read() is None:
            self._swap(_base_body(SHARDS, (0, 0), ()), None)

    def check_next(self, listing: Listing, wave: Wave) -> None:
        """StateError if a wave does not come after all that are committed."""
        if wave <= listing.last:
            raise StateError(f"wave {wave} of {self.folder} does not come after {listing.last}, which is committed")

    def commit_delta(self, listing: Listing, wave: Wave, files: Sequence[DataFile]) -> None:
        """Commit a wave after `listing.last`; StateError if another writer came first."""
        body = {
            "run": wave[0],
            "wave": wave[1],
            "previous": list(listing.last),
            "files": [asdict(file) for file in files],
        }
        if not create_if_absent(self.folder / _delta_name(wave), encode_json(_DELTA_KIND, FORMAT, body)):
            raise self._changed()

    def commit_base(self, listing: Listing, files: Sequence[DataFile]) -> None:
        """Make `files` the base that holds everything up to `listing.last`, then remove what it replaces."""
        self._swap(_base_body(listing.shards, listing.last, files), listing.version)
        kept = {file.name for file in files}
        folded = [self.folder / name for name in self._delta_names() if _wave_of(name) <= listing.last]
        remove_files([*folded, *(path for path in self.data.glob("*.parquet") if path.name not in kept)])

    def sweep(self, listing: Listing) -> None:
        """Remove what does not count: deltas off the chain, and data files that nothing names. Under the lease."""
        named = {file.name for file in listing.files}
        chain = {_delta_name(delta.wave) for delta in listing.deltas}
        off = [self.folder / name for name in self._delta_names() if name not in chain]
        remove_files([*off, *(path for path in self.data.glob("*.parquet") if path.name not in named)])

    def sealed(self, shards: tuple[int, int], name: str, rows: int) -> DataFile:
        """The listing entry of a data file, with rows of `shards` (first, last), that was just written."""
        path = self.data / name
        return DataFile(*shards, name, rows, path.stat().st_size, sha256_of(path))

    def verified(self, files: Iterable[DataFile], listing: Listing) -> list[Path]:
        """Paths of data files of a listing, after comparing size and hash with it, once per file.

        DamagedError if one is wrong or missing; StateError if it is gone because of a compaction since the listing.
        """
        return [self._verify(file, listing) for file in files]

    def _verify(self, file: DataFile, listing: Listing) -> Path:
        path = self.data / file.name
        fetch(path)  # the base is read in the bucket, and may be newer than the copy
        try:
            if path.stat().st_size != file.bytes:
                raise damaged(path, f"it has {path.stat().st_size:,} bytes instead of {file.bytes:,}")
            if file.name not in self._verified and sha256_of(path) != file.sha256:
                raise damaged(path, "its checksum does not match")
        except FileNotFoundError:
            raise self.missing(path, listing) from None
        self._verified.add(file.name)
        return path

    def missing(self, path: Path, listing: Listing) -> StateError:
        """The error for a data file of a listing that is not there."""
        current = self._cell.read()
        if current is not None and current[1] != listing.version:
            return StateError(f"{self.folder} was compacted while it was read", "run it again")
        return damaged(path, "it is missing")

    def _read_base(self, data: bytes | None) -> tuple[int, Wave, tuple[DataFile, ...]]:
        if data is None:
            return SHARDS, (0, 0), ()
        path = self._base
        body = decode_json(data, _BASE_KIND, FORMAT, path)
        try:
            return int(body["shards"]), (int(body["run"]), int(body["wave"])), _files(body["files"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, "fields are missing or wrong") from error

    def _read_delta(self, name: str) -> Delta | None:
        if name not in self._deltas:
            path = self.folder / name
            try:
                body = read_json(path, _DELTA_KIND, FORMAT)
                run, wave = body["previous"]
                delta = Delta((int(body["run"]), int(body["wave"])), (int(run), int(wave)), _files(body["files"]))
            except FileNotFoundError:
                return None  # folded in by a compaction since the folder was listed; the caller looks again
            except (KeyError, TypeError, ValueError) as error:
                raise damaged(path, "fields are missing or wrong") from error
            self._deltas[name] = delta
        return self._deltas[name]

    def _delta_names(self) -> list[str]:
        refresh(self.folder, "delta-*.json")
        return sorted(path.name for path in self.folder.glob("delta-*.json") if _DELTA_NAME.fullmatch(path.name))

    def _chain(self, found: Sequence[Delta | None]) -> tuple[Delta, ...]:
        """The newest delta and all before it, ascending; what is off this chain is left out."""
        by_wave = {delta.wave: delta for delta in found if delta is not None}
        chain: list[Delta] = []
        at = max(by_wave, default=None)
        while at is not None and at in by_wave:
            chain.append(by_wave.pop(at))
            at = chain[-1].previous
        return tuple(reversed(chain))

    def _swap(self, body: dict[str, Any], version: str | None) -> None:
        try:
            self._cell.replace(encode_json(_BASE_KIND, FORMAT, body), version)
        except CellConflictError:
            raise self._changed() from None

    def _changed(self) -> StateError:
        return StateError(
            f"{self.folder} was changed by another process", "run it again; only one process may write a collection"
        )


def _base_body(shards: int, covers: Wave, files: Sequence[DataFile]) -> dict[str, Any]:
    return {"shards": shards, "run": covers[0], "wave": covers[1], "files": [asdict(file) for file in files]}


def _files(values: Iterable[dict[str, Any]]) -> tuple[DataFile, ...]:
    return tuple(DataFile(**value) for value in values)


def _delta_name(wave: Wave) -> str:
    return f"delta-{wave[0]:06d}-{wave[1]:05d}.json"


def _wave_of(name: str) -> Wave:
    match = _DELTA_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is no delta")
    return int(match[1]), int(match[2])
