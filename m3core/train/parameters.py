"""What a run trains: the backbone's part (nothing, an adapter, or all of it) and the two heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from m3core.heads import Linear
from m3core.layout import EMBEDDINGS, NORMS, PRODUCTS
from m3core.model import Backbone, Layer, Norm


class Body(Protocol):
    """The trained tensors of a backbone, by name, and how they sit in it."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What an optimiser moves; empty where only the heads learn."""

    def on(self, backbone: Backbone) -> Backbone:
        """The backbone with these tensors."""

    def frozen_blocks(self, backbone: Backbone) -> int | None:
        """How many blocks lie under everything that learns; None where the embeddings learn too."""


B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of the three groups of parameters, and the shares of the run that warm up and that go by
    before the signals learn from their sum (1: they never do). `adapter` is the rate of whatever moves the backbone.
    """

    adapter: float = 3e-4
    sparse: float = 5e-4
    multi: float = 1e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    distil_after: float = 0.1


@dataclass(frozen=True)
class Parameters(Generic[B]):
    """Everything that is trained."""

    body: B
    sparse: Linear
    multi: Linear

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        heads = {"sparse.weight": self.sparse.weight, "sparse.bias": self.sparse.bias}
        heads |= {"multi.weight": self.multi.weight, "multi.bias": self.multi.bias}
        return {**self.body.tensors, **heads}

    def groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Parameter groups of an optimiser. A backbone's own norms and biases do not decay."""
        matrices = [tensor for tensor in self.body.tensors.values() if tensor.dim() > 1]
        others = [tensor for tensor in self.body.tensors.values() if tensor.dim() <= 1]
        groups = [
            {"params": matrices, "peak": rates.adapter},
            {"params": others, "peak": rates.adapter, "weight_decay": 0.0},
            {"params": [self.sparse.weight, self.sparse.bias], "peak": rates.sparse},
            {"params": [self.multi.weight, self.multi.bias], "peak": rates.multi},
        ]
        return [{**group, "lr": group["peak"]} for group in groups if group["params"]]


@dataclass(frozen=True)
class WholeBackbone:
    """Every tensor of a backbone, trained: `embeddings.words` and so on, `<block>.<product or norm>.<weight>`."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, backbone: Backbone) -> WholeBackbone:
        """Copies that have a gradient; the backbone stays as it is."""
        return cls({name: tensor.detach().clone().requires_grad_() for name, tensor in backbone_tensors(backbone)})

    def on(self, backbone: Backbone) -> Backbone:
        """A backbone of these tensors with the given one's sizes."""
        return with_tensors(backbone, self.tensors)

    def frozen_blocks(self, backbone: Backbone) -> None:
        """None: everything learns."""


_TABLES = ("words", "positions", "types")
_ENDS = ("weight", "bias")


def backbone_tensors(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a plain backbone by the names of `WholeBackbone`."""
    for name in _TABLES:
        yield f"{EMBEDDINGS}{name}", getattr(backbone, name)
    for end in _ENDS:
        yield f"{EMBEDDINGS}norm.{end}", getattr(backbone.norm, end)
    for index, layer in enumerate(backbone.layers):
        for part in (*PRODUCTS, *NORMS):
            for end in _ENDS:
                yield f"{index}.{part}.{end}", getattr(getattr(layer, part), end)


def with_tensors(backbone: Backbone, tensors: Mapping[str, Tensor]) -> Backbone:
    """A backbone with the same sizes and these tensors, named as by `backbone_tensors`."""

    def norm(plain: Norm, name: str) -> Norm:
        return replace(plain, weight=tensors[f"{name}.weight"], bias=tensors[f"{name}.bias"])

    def layer(plain: Layer, index: int) -> Layer:
        own = plain.with_products(
            lambda product, _: Linear(tensors[f"{index}.{product}.weight"], tensors[f"{index}.{product}.bias"])
        )
        norms: dict[str, Any] = {name: norm(getattr(plain, name), f"{index}.{name}") for name in NORMS}
        return replace(own, **norms)

    tables: dict[str, Any] = {name: tensors[f"{EMBEDDINGS}{name}"] for name in _TABLES}
    return replace(
        backbone,
        **tables,
        norm=norm(backbone.norm, f"{EMBEDDINGS}norm"),
        layers=tuple(layer(plain, index) for index, plain in enumerate(backbone.layers)),
    )


def trainable(head: Linear) -> Linear:
    """A copy of a head that has a gradient."""
    return Linear(head.weight.detach().clone().requires_grad_(), head.bias.detach().clone().requires_grad_())


def shipped(head: Linear) -> Linear:
    """A head as it is stored: rounded to float16, which FlagEmbedding does to heads in any case, without a gradient."""
    return Linear(head.weight.detach().half().float(), head.bias.detach().half().float())
