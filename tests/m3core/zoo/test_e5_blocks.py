"""The 4-bit container: every nibble, and refusal of what is not whole."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import ModelError
from m3core.zoo.e5_blocks import dequantise, read_e5_blocks


def _block(scale: float, quantised: list[int]) -> bytes:
    return struct.pack("<e", scale) + bytes(
        low | high << 4 for low, high in zip(quantised[:16], quantised[16:], strict=True)
    )


_QUANTISED = st.lists(st.integers(0, 15), min_size=32, max_size=32)


@given(st.lists(st.tuples(st.floats(2**-10, 4, width=16), _QUANTISED), min_size=1, max_size=4))
def test_a_weight_is_its_nibble_less_eight_times_the_scale(blocks: list[tuple[float, list[int]]]) -> None:
    packed = b"".join(_block(scale, quantised) for scale, quantised in blocks)
    expected = [(q - 8) * np.float32(scale) for scale, quantised in blocks for q in quantised]
    assert dequantise(packed, 32 * len(blocks)).tolist() == expected


def write_container(path: Path, tensors: dict[str, tuple[int, int, bytes]], *, layers: int = 0) -> Path:
    """A small E5S1 file: hidden 32, one layer count as given; tensors are name -> (dtype, count, bytes)."""
    header = b"E5S1" + struct.pack("<I7ifi", 1, 32, layers, 2, 64, 3, 4, 2, 1e-12, 32)
    tokenizer = (
        struct.pack("<5iQ", 2, 0, 2, 1, 3, 5) + b"\0" * (4 * 3 + 4 * 2 + 5) + struct.pack("<iI", 1, 7) + b"\0" * 7
    )
    table_size = 4 + sum(2 + len(name) + 21 for name in tensors)
    offset = len(header) + len(tokenizer) + table_size
    table, data = struct.pack("<i", len(tensors)), b""
    for name, (dtype, count, raw) in tensors.items():
        table += (
            struct.pack("<H", len(name))
            + name.encode()
            + struct.pack("<BIQQ", dtype, count, offset + len(data), len(raw))
        )
        data += raw
    path.write_bytes(header + tokenizer + table + data)
    return path


def test_header_and_tensors_are_read(tmp_path: Path) -> None:
    weights = np.arange(8, dtype="<f4")
    path = write_container(tmp_path / "x.bin", {"a": (0, 8, weights.tobytes()), "b": (1, 32, _block(0.5, [10] * 32))})
    header, tensors = read_e5_blocks(path)
    assert (header.hidden, header.vocab, header.max_positions) == (32, 3, 4)
    assert tensors["a"].tolist() == weights.tolist()
    assert tensors["b"].tolist() == [1.0] * 32


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = write_container(tmp_path / "x.bin", {"a": (0, 8, b"\0" * 32)})
    whole = path.read_bytes()
    for size in (4, 60, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"not a whole E5S1 file|ends after the file does"):
            read_e5_blocks(path)
    path.write_bytes(b"PK" + whole[2:])
    with pytest.raises(ModelError, match="does not start with E5S1"):
        read_e5_blocks(path)
