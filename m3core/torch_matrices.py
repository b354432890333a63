"""m3core.matrices for tensors on any device: scores `[Q, N]` from padded batches and their masks, in bounded blocks.

Without gradients: training has its own (m3core.train.losses).
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from m3core.matrices import MAX_BYTES

_CELL = 4  # bytes of a float32
_MATCH = 48  # bytes that one shared token takes on its way: three indices, a weight, a product and their sources


@torch.no_grad()
def dense(queries: Tensor, passages: Tensor) -> Tensor:
    """Dot products of `[Q, D]` with `[N, D]`."""
    return queries.float() @ passages.float().T


@torch.no_grad()
def lexical(
    query_ids: Tensor, query_weights: Tensor, passage_ids: Tensor, passage_weights: Tensor, max_bytes: int = MAX_BYTES
) -> Tensor:
    """Sums of w_q * w_p over shared token ids; ids and weights are `[Q, Kq]` and `[N, Kp]`, weights 0 at padding.

    The ids of one text are distinct. At least one token's passages are looked at at a time.
    """
    scores = query_weights.new_zeros(len(query_ids), len(passage_ids), dtype=torch.float32)
    owner, column = passage_weights.nonzero(as_tuple=True)
    ids, order = passage_ids[owner, column].sort(stable=True)
    owner, weights = owner[order], passage_weights[owner, column][order].float()
    row, place = query_weights.nonzero(as_tuple=True)
    asked, asked_weights = query_ids[row, place], query_weights[row, place].float()
    first = torch.searchsorted(ids, asked)
    counts = torch.searchsorted(ids, asked, right=True) - first
    base = row * len(passage_ids)
    for part in _parts(counts, max(1, max_bytes // _MATCH)):
        count = counts[part]
        matches = int(count.sum())
        token = torch.repeat_interleave(count, output_size=matches)
        found = torch.arange(matches, device=ids.device) + (first[part] - (count.cumsum(0) - count))[token]
        cells = base[part][token] + owner[found]
        scores.view(-1).index_add_(0, cells, asked_weights[part][token] * weights[found])
    return scores


@torch.no_grad()
def max_sim(
    queries: Tensor, query_mask: Tensor, passages: Tensor, passage_mask: Tensor, max_bytes: int = MAX_BYTES
) -> Tensor:
    """Means over a query's vectors of the largest dot product with a passage vector.

    Vectors are `[Q, Tq, D']` and `[N, Tp, D']`, masks true at real ones. 0 where a side has none. At least one query
    vector meets one padded passage at a time, whatever `max_bytes`.
    """
    asked_by = query_mask.nonzero()[:, 0]
    vectors = queries[query_mask]
    texts, length, width = passages.shape
    scores = queries.new_zeros(len(queries), texts, dtype=torch.float32)
    if not length:
        return scores
    cells = max_bytes // _CELL
    usual = max(1, min(len(vectors), isqrt(cells) // 2))
    step = max(1, (cells - usual * width) // (length * (2 * usual + width)))
    rows = max(1, (cells - step * length * width) // (2 * step * length + width))
    for first in range(0, texts, step):
        block, mask = passages[first : first + step].float(), passage_mask[first : first + step]
        empty = ~mask.any(-1)
        for start in range(0, len(vectors), rows):
            products = vectors[start : start + rows].float() @ block.reshape(-1, width).T
            best = products.view(len(products), len(block), length).masked_fill_(~mask, -torch.inf).amax(-1)
            part = scores[:, first : first + step]
            part.index_add_(0, asked_by[start : start + rows], best.masked_fill_(empty, 0.0))
    return scores.div_(query_mask.sum(-1, keepdim=True).clamp(min=1))


def _parts(counts: Tensor, most: int) -> list[slice]:
    """Consecutive places whose `counts` add up to at most `most`, or one with more; zeros at the end are left out."""
    ends = [0, *counts.cumsum(0).tolist()]
    parts, start = [], 0
    while start < len(counts) and ends[start] < ends[-1]:
        stop = start + 1
        while stop < len(counts) and ends[stop + 1] - ends[start] <= most:
            stop += 1
        parts.append(slice(start, stop))
        start = stop
    return parts
