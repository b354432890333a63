"""The key index of a lake: which row of which file holds a key. It can be rebuilt from the files at any time.

`lake/<fingerprint>/index/` holds segments, `*.keys`. Writing a lake file adds `<its name>.keys`; a merge writes
`m-<sha256>.keys` out of several and then removes those, so that a lookup meets few. Segments may repeat each other. The
format, all little-endian:

    offset            size   what
    0                 8      `M3KEYS`, 0, 1 (the format)
    8                 8      u64 F, number of lake files
    16                8      u64 N, number of rows
    24                8      zero
    32                72 F   per lake file: name (32 raw bytes), u64 size, sha256 of the file (32 bytes)
    32 + 72 F         32 N   keys, ascending by bytes (a key in two files is here twice)
    32 + 72 F + 32 N  8 N    per key: u32 number of the lake file in the table above, u32 row
    32 + 72 F + 40 N  32     sha256 of everything before

A segment is memory-mapped and searched in place: neither keys nor vectors become Python objects. Its checksum is
verified when it is opened; a damaged one is moved aside and made again from the lake files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.state.files import atomic_file, damaged
from pipelines.state.lakefile import KEY_BYTES, FileSeal

SUFFIX = ".keys"
_MAGIC = b"M3KEYS\x00\x01"
_HEADER = np.dtype([("magic", "V8"), ("files", "<u8"), ("rows", "<u8"), ("zero", "V8")])
_FILE = np.dtype([("name", "V32"), ("size", "<u8"), ("sha256", "V32")])
_PLACE = np.dtype([("file", "<u4"), ("row", "<u4")])
_DIGEST_BYTES = 32
# Rows that are sorted in memory at once while segments are merged: 40 bytes each, a few times over.
_MERGE_ROWS = 1 << 17

Keys = npt.NDArray[np.bytes_]
Block = tuple[Keys, npt.NDArray[np.void]]


@dataclass(frozen=True)
class Segment:
    """An open segment: arrays that lie in the mapped file. `keys` are `[N]` of 32 bytes, `places` `[N]` (file, row)."""

    path: Path
    files: npt.NDArray[np.void]
    keys: Keys
    places: npt.NDArray[np.void]

    def seals(self) -> list[FileSeal]:
        """Name, size and hash of its lake files."""
        return [FileSeal(f["name"].tobytes(), int(f["size"]), f["sha256"].tobytes()) for f in self.files]


def as_keys(hex_keys: Sequence[str]) -> Keys:
    """Hexadecimal keys as an array `[N]` of 32 bytes; ValueError if one is not 64 hex digits."""
    if any(len(key) != 2 * KEY_BYTES for key in hex_keys):
        raise ValueError("a lake key is 64 hexadecimal digits")
    return np.frombuffer(bytes.fromhex("".join(hex_keys)), dtype="S32")


def open_segment(path: Path) -> Segment:
    """Map a segment and verify it. FileNotFoundError if it is gone; DamagedError if it is damaged."""
    if path.stat().st_size < _HEADER.itemsize + _DIGEST_BYTES:
        raise damaged(path, "it is too short")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    if hashlib.sha256(data[:-_DIGEST_BYTES].data).digest() != data[-_DIGEST_BYTES:].tobytes():
        raise damaged(path, "its checksum does not match")
    header = data[: _HEADER.itemsize].view(_HEADER)[0]
    if header["magic"].tobytes() != _MAGIC:
        raise damaged(path, "it is no key index of this format")
    files_end = _HEADER.itemsize + int(header["files"]) * _FILE.itemsize
    keys_end = files_end + int(header["rows"]) * KEY_BYTES
    places_end = keys_end + int(header["rows"]) * _PLACE.itemsize
    return Segment(
        path,
        data[_HEADER.itemsize : files_end].view(_FILE),
        data[files_end:keys_end].view("S32"),
        data[keys_end:places_end].view(_PLACE),
    )


def write_unit_segment(folder: Path, sealed: FileSeal, keys: Keys) -> Path:
    """The segment of one lake file whose rows hold `keys`, ascending."""
    places = np.zeros(len(keys), _PLACE)
    places["row"] = np.arange(len(keys))
    path = folder / (sealed.name.hex() + SUFFIX)
    _write(path, _file_table([sealed]), len(keys), [(keys, places)])
    return path


def merge_segments(folder: Path, segments: Sequence[Segment], keep: set[bytes]) -> Path:
    """Write one segment out of several, in bounded memory, and return it; the old ones stay. Rows of lake files that
    are not in `keep` (names) are dropped."""
    seals = {seal.name: seal for segment in segments for seal in segment.seals() if seal.name in keep}
    table = [seals[name] for name in sorted(seals)]
    number_of = {seal.name: number for number, seal in enumerate(table)}
    numbers = [np.array([number_of.get(seal.name, -1) for seal in s.seals()], np.int64) for s in segments]
    rows = sum(len(keys) for keys, _ in _merged(segments, numbers))
    names = hashlib.sha256(b"".join(sorted(segment.path.name.encode() for segment in segments))).hexdigest()
    path = folder / f"m-{names}{SUFFIX}"
    _write(path, _file_table(table), rows, _merged(segments, numbers))
    return path


def _merged(segments: Sequence[Segment], numbers: Sequence[npt.NDArray[np.int64]]) -> Iterator[Block]:
    """Blocks of merged rows, ascending, without repetitions. Keys are hashes, so equal ranges of them fill evenly."""
    total = sum(len(segment.keys) for segment in segments)
    blocks = max(1, -(-total // _MERGE_ROWS))
    edges = [(block * (1 << 32) // blocks).to_bytes(4, "big") for block in range(1, blocks)]
    cuts = [[0, *np.searchsorted(s.keys, np.array(edges, "S32")).tolist(), len(s.keys)] for s in segments]
    for block in range(blocks):
        keys, files, rows = [], [], []
        for segment, cut, number in zip(segments, cuts, numbers, strict=True):
            part = slice(cut[block], cut[block + 1])
            places = segment.places[part]
            file = number[places["file"]]
            kept = file >= 0
            keys.append(segment.keys[part][kept])
            files.append(file[kept])
            rows.append(places["row"][kept])
        yield _sorted_rows(np.concatenate(keys), np.concatenate(files), np.concatenate(rows))


def _sorted_rows(keys: Keys, files: npt.NDArray[np.int64], rows: npt.NDArray[np.uint32]) -> Block:
    order = np.lexsort((rows, files, keys))
    places = np.zeros(len(order), _PLACE)
    places["file"], places["row"] = files[order], rows[order]
    keys = keys[order]
    new = np.ones(len(order), bool)
    new[1:] = (keys[1:] != keys[:-1]) | (places[1:] != places[:-1])
    return keys[new], places[new]


def _file_table(seals: Sequence[FileSeal]) -> npt.NDArray[np.void]:
    return np.array([(seal.name, seal.size, seal.sha256) for seal in seals], _FILE)


def _write(path: Path, files: npt.NDArray[np.void], rows: int, blocks: Iterable[Block]) -> None:
    header = np.array([(_MAGIC, len(files), rows, b"")], _HEADER)
    keys_at = _HEADER.itemsize + files.nbytes
    places_at = keys_at + rows * KEY_BYTES
    with atomic_file(path) as file:
        file.write(header.tobytes() + files.tobytes())
        for keys, places in blocks:
            file.seek(keys_at)
            keys_at += file.write(keys.tobytes())
            file.seek(places_at)
            places_at += file.write(places.tobytes())
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(digest)
