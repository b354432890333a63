"""Softmax attention within each of some packed texts, prepared once for all blocks of a batch.

On a CPU, and in float32 anywhere, texts of equal length go together as `[n, heads, S, d]`: no mask is needed. On a GPU
in half precision one kernel takes all lengths at once (torch's varlen_attn, since 2.13: FlashAttention).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from m3core.gpu import to_device

# `[P, 3H]`, the three projections of packed states, -> `[P, H]`.
Attention = Callable[[Tensor], Tensor]
# FlashAttention's least compute capability: Ampere.
_FLASH = (8, 0)


def attention_within(lengths: Sequence[int], heads: int, states: Tensor) -> Attention:
    """Attention over texts of these `lengths`, which come in runs of equal length, in the device and dtype of `states`.

    `lengths` is not empty. A text's result does not depend on the others of its batch.
    """
    if (kernel := _kernel_for(states)) is not None:
        starts = to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), str(states.device))
        return partial(_all_lengths, kernel=kernel, starts=starts, longest=max(lengths), heads=heads)
    return partial(
        _equal_lengths, runs=[(length, sum(1 for _ in run)) for length, run in groupby(lengths)], heads=heads
    )


def _kernel_for(states: Tensor) -> Callable[..., Any] | None:
    """torch's varlen_attn, where it runs on such states."""
    if not states.is_cuda or states.dtype not in (torch.float16, torch.bfloat16):
        return None
    return _varlen_attn() if torch.cuda.get_device_capability(states.device) >= _FLASH else None


@cache
def _varlen_attn() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10
        return None
    return varlen_attn if "num_splits" in inspect.signature(varlen_attn).parameters else None


def _equal_lengths(qkv: Tensor, *, runs: Sequence[tuple[int, int]], heads: int) -> Tensor:
    """`runs` are lengths and how many texts in a row have them."""
    hidden = qkv.shape[1] // 3
    mixed = []
    # Split and cat, not slices of one buffer: their gradients are one copy each.
    for (length, texts), part in zip(runs, torch.split(qkv, [length * texts for length, texts in runs]), strict=True):
        # [n, S, 3, heads, d] -> 3 x [n, heads, S, d]
        q, k, v = part.view(texts, length, 3, heads, hidden // heads).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        mixed.append(out.transpose(1, 2).reshape(texts * length, hidden))
    return torch.cat(mixed)


def _all_lengths(qkv: Tensor, *, kernel: Callable[..., Any], starts: Tensor, longest: int, heads: int) -> Tensor:
    """`starts` int32 `[N + 1]`, on the device: where each text begins, and the end."""
    hidden = qkv.shape[1] // 3
    q, k, v = qkv.view(len(qkv), 3, heads, hidden // heads).unbind(1)
    # Keys that are split among blocks are summed in an order that depends on the longest text of the batch.
    mixed: Tensor = kernel(q, k, v, starts, starts, longest, longest, num_splits=1)
    return mixed.reshape(len(qkv), hidden)
