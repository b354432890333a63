"""Multi-vectors in parts: they come back bit by bit, and a part that is missing or wrong is an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.milvus.parts import PART_BYTES, pack, part_ids, unpack
from m3core.errors import StoreError
from tests.conformance.data import row_id

CHUNK = row_id(1)


def make(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float16)


@given(st.integers(0, 700), st.sampled_from([1, 3, 64, 128]), st.integers(0, 5))
def test_vectors_come_back_bit_by_bit(count: int, dim: int, seed: int) -> None:
    vectors = make(count, dim, seed)
    texts = dict(zip(part_ids(CHUNK, count, dim), pack(vectors), strict=True))
    found = unpack(CHUNK, count, dim, texts)
    assert found.dtype == np.float16
    assert np.array_equal(found, vectors)
    assert found.shape == (count, dim)


def test_no_part_is_longer_than_milvus_keeps_and_none_is_empty() -> None:
    for size in (0, 1, PART_BYTES // 2, PART_BYTES // 2 + 1, 4096 * 128):
        texts = pack(make(size, 1))
        assert all(0 < len(text.encode()) <= 65_535 for text in texts)
        assert len(texts) == -(-2 * size // PART_BYTES) == len(list(part_ids(CHUNK, size, 1)))


def test_a_missing_or_damaged_part_is_an_error_with_the_rows_id() -> None:
    vectors = make(400, 128)
    texts = dict(zip(part_ids(CHUNK, 400, 128), pack(vectors), strict=True))
    assert len(texts) == 3
    first = f"{CHUNK}/0"
    for damaged in (
        {},
        {part: text for part, text in texts.items() if part != first},
        {**texts, first: texts[first][:-4]},
        {**texts, first: texts[first][:-4] + "!!!!"},
    ):
        with pytest.raises(StoreError, match=f"row {CHUNK} are not whole") as caught:
            unpack(CHUNK, 400, 128, damaged)
        assert caught.value.remedy == "run m3 repair"
