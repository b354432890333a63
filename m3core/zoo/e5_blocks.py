"""Reader of the `E5S1` container: multilingual-e5-small in 4-bit blocks of 32 weights.

Layout (little-endian): magic, u32 version, 7 x i32 (hidden, layers, heads, ffn, vocab, max_pos, type_vocab), f32 eps,
i32 block; a tokenizer section that we skip (we use the published `tokenizer.json`); then a table of tensors, each
u16 name length, name, u8 dtype (0 = f32, 1 = 4-bit blocks), u32 count, u64 absolute offset, u64 bytes.
A 4-bit block is an f16 scale and 16 bytes: low nibbles are weights 0..15, high nibbles 16..31, value (q - 8) * scale.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from m3core.errors import ModelError

_MAGIC = b"E5S1"
_BLOCK = 32
_BLOCK_BYTES = 2 + _BLOCK // 2
_MAX_TENSORS = 4096

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class E5Header:
    """Sizes of the packed BertModel."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    vocab: int
    max_positions: int
    type_vocab: int
    layer_norm_eps: float


@dataclass(frozen=True)
class _Entry:
    dtype: int
    count: int
    offset: int
    size: int


def dequantise(blocks: bytes | memoryview, count: int) -> FloatArray:
    """Expand 4-bit blocks into `count` float32 weights, `[count]`."""
    if count % _BLOCK or len(blocks) != count // _BLOCK * _BLOCK_BYTES:
        raise ModelError(
            f"a 4-bit tensor of {count} weights holds {len(blocks)} bytes, not {count // _BLOCK * _BLOCK_BYTES}",
            "download the model again: m3 models pull m3-small --force",
        )
    rows = np.frombuffer(blocks, dtype=np.uint8).reshape(-1, _BLOCK_BYTES)
    scale = np.ascontiguousarray(rows[:, :2]).view("<f2").astype(np.float32)
    packed = rows[:, 2:]
    nibbles = np.concatenate([packed & 0x0F, packed >> 4], axis=1).astype(np.float32)
    return ((nibbles - 8.0) * scale).reshape(-1)


def read_e5_blocks(path: Path) -> tuple[E5Header, dict[str, FloatArray]]:
    """Read header and every tensor (float32, flat) of an `E5S1` file.

    Raises ModelError if the file is truncated or not of this format.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            header, entries = _read_table(data)
            return header, {name: _read_tensor(data, name, entry) for name, entry in entries.items()}
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{path.name} is not a whole E5S1 file ({error})",
                "download the model again: m3 models pull m3-small --force",
            ) from None


def _read_table(data: mmap.mmap) -> tuple[E5Header, dict[str, _Entry]]:
    if data[:4] != _MAGIC:
        raise ModelError(
            "the file does not start with E5S1", "download the model again: m3 models pull m3-small --force"
        )
    _version, hidden, layers, heads, ffn, vocab, max_pos, type_vocab, eps, block = struct.unpack_from("<I7ifi", data, 4)
    if block != _BLOCK:
        raise ModelError(f"4-bit blocks of {block} weights; this reader knows {_BLOCK}", "upgrade threefold")
    position = 44
    pieces, *_ = struct.unpack_from("<5i", data, position)
    (blob,) = struct.unpack_from("<Q", data, position + 20)
    position += 28 + 4 * (pieces + 1) + 4 * pieces + blob
    (_norms, norm_bytes) = struct.unpack_from("<iI", data, position)
    position += 8 + norm_bytes
    (tensors,) = struct.unpack_from("<i", data, position)
    position += 4
    if not 0 < tensors <= _MAX_TENSORS:
        raise ModelError(f"the file lists {tensors} tensors; 1 to {_MAX_TENSORS} are allowed", "download it again")
    entries: dict[str, _Entry] = {}
    for _ in range(tensors):
        (length,) = struct.unpack_from("<H", data, position)
        name = data[position + 2 : position + 2 + length].decode("ascii")
        entries[name] = _Entry(*struct.unpack_from("<BIQQ", data, position + 2 + length))
        position += 2 + length + 21
    return E5Header(hidden, layers, heads, ffn, vocab, max_pos, type_vocab, eps), entries


def _read_tensor(data: mmap.mmap, name: str, entry: _Entry) -> FloatArray:
    raw = data[entry.offset : entry.offset + entry.size]
    if len(raw) != entry.size:
        raise ModelError(
            f"tensor {name} ends after the file does", "download it again: m3 models pull m3-small --force"
        )
    if entry.dtype == 1:
        return dequantise(raw, entry.count)
    return np.frombuffer(raw, dtype="<f4", count=entry.count).astype(np.float32)
