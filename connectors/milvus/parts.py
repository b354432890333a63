"""Multi-vectors as rows of a collection beside the main one: fp16 bytes in base64, cut into texts that Milvus takes.

A text field of Milvus holds at most 65,535 bytes, a chunk of 512 tokens takes 175,000 here; there is no field of bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping

import numpy as np

from m3core.errors import StoreError
from m3core.types import Float16Array

# In base64 65,532 characters, the largest multiple of 4 within the limit.
PART_BYTES = 49_149


def pack(vectors: Float16Array) -> list[str]:
    """`[T, D']` as the texts of its parts, in order; no vectors have no parts."""
    raw = np.ascontiguousarray(vectors, np.dtype("<f2")).tobytes()
    return [base64.b64encode(raw[at : at + PART_BYTES]).decode("ascii") for at in range(0, len(raw), PART_BYTES)]


def part_ids(chunk_id: str, vectors: int, dim: int) -> Iterator[str]:
    """Ids of the parts of a row's `[vectors, dim]`."""
    for place in range(-(-2 * vectors * dim // PART_BYTES)):
        yield part_id(chunk_id, place)


def part_id(chunk_id: str, place: int) -> str:
    """Id of one part; it begins with the chunk's."""
    return f"{chunk_id}/{place}"


def unpack(chunk_id: str, vectors: int, dim: int, texts: Mapping[str, str]) -> Float16Array:
    """What `pack` packed, from texts by part id. StoreError if a part is missing or of another length."""
    try:
        raw = b"".join(base64.b64decode(texts[part], validate=True) for part in part_ids(chunk_id, vectors, dim))
        packed: Float16Array = np.frombuffer(raw, np.dtype("<f2")).reshape(vectors, dim)
    except (KeyError, binascii.Error, ValueError):
        raise StoreError(f"multi-vectors of row {chunk_id} are not whole in Milvus", "run m3 repair") from None
    return packed
