"""Multi-vectors as an array of structs of one fp16 vector each: what servers of 2.6.4 and newer compute MaxSim on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m3core.errors import StoreError
from m3core.types import Float16Array

SUB_FIELD = "vector"
# How a search names the vectors.
ANNS_FIELD = f"multi[{SUB_FIELD}]"


def structs(vectors: Float16Array) -> list[dict[str, bytes]]:
    """`[T, D']` as the value of the column.

    A row without vectors gets one of zeros: it scores 0 whatever is asked, and no server has to index an empty array.
    Its number of vectors, which is 0, lies beside it.
    """
    rows = np.ascontiguousarray(vectors if len(vectors) else np.zeros((1, vectors.shape[1])), np.dtype("<f2"))
    return [{SUB_FIELD: row.tobytes()} for row in rows]


def vectors_of(chunk_id: str, vectors: int, dim: int, value: Sequence[Mapping[str, Any]]) -> Float16Array:
    """`[vectors, dim]` from the column's value as the client gives it. StoreError if the server has others."""
    found: Float16Array = np.array([each[SUB_FIELD] for each in value], np.float16).reshape(len(value), -1)
    if found.shape != (max(vectors, 1), dim):
        raise StoreError(f"multi-vectors of row {chunk_id} are not whole in Milvus", "run m3 repair")
    return found[:vectors]
