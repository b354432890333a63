"""The three signals of some texts as training needs them: packed, with gradients, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m3core.heads import Linear
from m3core.model import Backbone, dense_vectors, token_vectors, token_weights


@dataclass(frozen=True)
class Texts:
    """Signals of B texts, padded: ids and mask `[B, T]`, dense `[B, H]`, weights `[B, T]` (0 at padding), and
    multi-vectors `[B, T - 1, D']` of all tokens but the first.
    """

    ids: Tensor
    mask: Tensor
    dense: Tensor
    weights: Tensor
    vectors: Tensor

    def rows(self, part: slice) -> Texts:
        """Some of the texts."""
        return Texts(self.ids[part], self.mask[part], self.dense[part], self.weights[part], self.vectors[part])


@dataclass(frozen=True)
class Embedded:
    """Signals of N texts one after another, P tokens in all: dense `[N, H]`, ids and weights `[P]`, multi-vectors
    `[P - N, D']` of all tokens but the first of each, lengths `[N]`.
    """

    dense: Tensor
    ids: Tensor
    weights: Tensor
    vectors: Tensor
    lengths: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Embedded]) -> Embedded:
        """The texts of all parts, in their order."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    @property
    def values(self) -> tuple[Tensor, Tensor, Tensor]:
        """What carries a gradient."""
        return self.dense, self.weights, self.vectors

    def leaf(self) -> Embedded:
        """The same values, cut off from what made them, each waiting for a gradient."""
        dense, weights, vectors = (value.detach().requires_grad_() for value in self.values)
        return Embedded(dense, self.ids, weights, vectors, self.lengths)

    def padded(self, places: Sequence[int]) -> Texts:
        """The texts at some places, a place may come twice; gradients flow back."""
        chosen = torch.tensor(places, dtype=torch.int64)
        lengths = self.lengths[chosen]
        starts = (self.lengths.cumsum(0) - self.lengths)[chosen]
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        # Padding reads row 0; whoever uses it masks it, so no gradient comes back.
        tokens = torch.where(mask, starts[:, None] + steps, 0)
        # Each text before this one has one vector less than tokens.
        later = torch.where(mask[:, 1:], (starts - chosen)[:, None] + steps[:-1], 0)
        vectors = self.vectors.index_select(0, later.flatten()).view(*later.shape, self.vectors.shape[1])
        return Texts(
            ids=self.ids[tokens],
            mask=mask,
            dense=self.dense.index_select(0, chosen),
            weights=self.weights.index_select(0, tokens.flatten()).view(tokens.shape) * mask,
            vectors=vectors,
        )


def embed(states: Tensor, ids: Tensor, lengths: Tensor, heads: tuple[Linear, Linear], pooling: str) -> Embedded:
    """Signals of packed states `[P, H]`; `heads` are the sparse and the multi-vector one."""
    starts = lengths.cumsum(0) - lengths
    later = torch.ones(len(ids), dtype=torch.bool)
    later[starts] = False
    sparse, multi = heads
    return Embedded(
        dense=dense_vectors(states, starts, lengths, pooling),
        ids=ids,
        weights=token_weights(states, sparse),
        vectors=token_vectors(states, later.nonzero().squeeze(1), multi),
        lengths=lengths,
    )


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Order in which the blocks want texts: runs of equal length."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def through_blocks(
    backbone: Backbone, states: Tensor, lengths: Sequence[int], part: slice, autocast: torch.dtype | None
) -> Tensor:
    """Packed states `[P, H]` after some blocks, of texts in runs of equal length; products in `autocast` if given.

    Weights, gradients and everything after the blocks keep the weights' own precision.
    """
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        done = backbone.blocks(states, lengths, part)
    return done.to(backbone.words.dtype)
