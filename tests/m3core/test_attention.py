"""Attention within packed texts: groups of equal length and all lengths at once give the same, text by text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m3core import attention
from m3core.attention import attention_within

_HEADS, _WIDTH = 2, 4
_HIDDEN = _HEADS * _WIDTH
_LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6).map(lambda found: sorted(found, reverse=True))


def one_by_one(qkv: Tensor, lengths: Sequence[int]) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of each text and head, written out."""
    mixed = []
    for text in torch.split(qkv, list(lengths)):
        heads = []
        for head in range(_HEADS):
            q, k, v = (
                text[:, part * _HIDDEN + head * _WIDTH : part * _HIDDEN + (head + 1) * _WIDTH] for part in range(3)
            )
            heads.append(torch.softmax(q @ k.T / _WIDTH**0.5, dim=1) @ v)
        mixed.append(torch.cat(heads, dim=1))
    return torch.cat(mixed)


def varlen_by_the_book(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    num_splits: int | None = None,
) -> Tensor:
    """What torch documents of `varlen_attn` (query, key, value `[T, heads, d]`), which itself runs on GPUs only."""
    assert cu_seq_q.dtype == torch.int32
    assert cu_seq_q.tolist() == cu_seq_k.tolist()
    bounds = cu_seq_q.tolist()
    lengths = [end - start for start, end in pairwise(bounds)]
    assert max_q == max_k == max(lengths)
    assert num_splits == 1, "the order of a sum would depend on the batch"
    return one_by_one(torch.cat([part.flatten(1) for part in (query, key, value)], dim=1), lengths).view(query.shape)


@given(_LENGTHS, st.integers(0, 1000))
def test_both_ways_equal_a_loop_over_texts(lengths: list[int], seed: int) -> None:
    qkv = torch.randn(sum(lengths), 3 * _HIDDEN, generator=torch.Generator().manual_seed(seed))
    expected = one_by_one(qkv, lengths)
    assert torch.allclose(attention_within(lengths, _HEADS, qkv)(qkv), expected, atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_kernel_for", lambda states: varlen_by_the_book)
        assert torch.allclose(attention_within(lengths, _HEADS, qkv)(qkv), expected, atol=1e-5)


def test_a_cpu_takes_groups_of_equal_length_in_half_precision_too() -> None:
    qkv = torch.randn(5, 3 * _HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = attention_within([3, 1, 1], _HEADS, qkv)(qkv)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), one_by_one(qkv.float(), [3, 1, 1]), atol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_agrees_with_the_loop(dtype: torch.dtype) -> None:
    lengths = [300, 17, 17, 2, 1]
    heads, width = 4, 64
    qkv = torch.randn(sum(lengths), 3 * heads * width, device="cuda", dtype=dtype)
    found = attention_within(lengths, heads, qkv)(qkv)
    exact = qkv.double().cpu()
    expected = attention_within(lengths, heads, exact)(exact)
    assert torch.allclose(found.double().cpu(), expected, atol=1e-5 if dtype == torch.float32 else 2e-2)
