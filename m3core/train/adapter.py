"""Low-rank adapters over the last blocks of a backbone: what training moves, small enough to ship.

LoRA (Hu et al. 2021, arXiv:2106.09685): a linear layer W becomes W + scale * B A, with A `[r, in]` and B `[out, r]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from m3core.errors import ModelError
from m3core.heads import Linear
from m3core.layout import PRODUCTS
from m3core.model import Backbone


@dataclass(frozen=True)
class AdaptedLinear(Linear):
    """A frozen linear layer plus `scale * B A`, as two thin products: the large weight needs no gradient."""

    inner: Tensor
    outer: Tensor
    scale: float

    def __call__(self, states: Tensor) -> Tensor:
        plain = functional.linear(states, self.weight, self.bias)
        # One product that adds, not a product, a scaling and a sum: the last two took a seventh of a step's time.
        return torch.addmm(plain, functional.linear(states, self.inner), self.outer.T, alpha=self.scale)

    def merged(self) -> Linear:
        """The same layer as one product."""
        return Linear(self.weight + self.scale * self.outer @ self.inner, self.bias)


@dataclass(frozen=True)
class Adapter:
    """Trainable tensors of the last `depth` blocks, by name `<block>.<product>.<inner or outer>`.

    Products are those of m3core.layout. `qkv` are three in one: its A is shared by them.
    """

    depth: int
    scale: float
    tensors: Mapping[str, Tensor]

    @classmethod
    def fresh(cls, backbone: Backbone, depth: int, rank: int, scale: float, generator: torch.Generator) -> Adapter:
        """An adapter that changes nothing yet: A random (Kaiming), B zero."""
        tensors: dict[str, Tensor] = {}
        layers = len(backbone.layers)
        for index in range(layers - depth, layers):
            for product in PRODUCTS:
                linear: Linear = getattr(backbone.layers[index], product)
                outputs, inputs = linear.weight.shape
                bound = 1 / math.sqrt(inputs)
                inner = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
                tensors[f"{index}.{product}.inner"] = inner.requires_grad_()
                tensors[f"{index}.{product}.outer"] = torch.zeros(outputs, rank, requires_grad=True)
        return cls(depth, scale, tensors)

    def on(self, backbone: Backbone) -> Backbone:
        """The backbone with its last blocks adapted. Raises ModelError if a tensor does not fit."""
        first = self.frozen_blocks(backbone)
        layers = [
            layer.with_products(partial(self._linear, index)) if index >= first else layer
            for index, layer in enumerate(backbone.layers)
        ]
        return replace(backbone, layers=tuple(layers))

    def _linear(self, index: int, product: str, plain: Linear) -> AdaptedLinear:
        inner, outer = (self.tensors.get(f"{index}.{product}.{part}") for part in ("inner", "outer"))
        if inner is None or outer is None or (outer.shape[0], inner.shape[1]) != tuple(plain.weight.shape):
            raise ModelError(
                f"adapter: block {index}, {product}: no tensors of {list(plain.weight.shape)}",
                "use the adapter that was trained on this backbone",
            )
        return AdaptedLinear(plain.weight, plain.bias, inner, outer, self.scale)

    def frozen_blocks(self, backbone: Backbone) -> int:
        """How many blocks lie under the adapted ones."""
        return len(backbone.layers) - self.depth

    def parameters(self) -> Iterator[Tensor]:
        """What an optimiser moves."""
        yield from self.tensors.values()


def merged(backbone: Backbone) -> Backbone:
    """Every adapted layer as one product, without gradients."""

    def plain(_: str, linear: Linear) -> Linear:
        whole = linear.merged() if isinstance(linear, AdaptedLinear) else linear
        return Linear(whole.weight.detach(), whole.bias.detach())

    return replace(backbone, layers=tuple(layer.with_products(plain) for layer in backbone.layers))
