"""How much of a model learns: its two heads, low-rank adapters too, or everything; and the encoder that comes of it.

LoRA is m3core.train.adapter's. peft wraps the modules of transformers, and there is none here: the forward pass is
m3core.model's, on packed texts, the one that encodes later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from m3core.encoder import Encoder
from m3core.errors import TrainingError
from m3core.model import Backbone
from m3core.train.adapter import Adapter, merged
from m3core.train.parameters import Parameters, WholeBackbone, backbone_tensors, shipped, trainable, with_tensors

Mode = Literal["heads", "lora", "full"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters: of the last `depth` blocks (None: all), rank r, and alpha / r."""

    depth: int | None = None
    rank: int = 32
    scale: float = 2.0


def parameters_of(encoder: Encoder, mode: Mode, lora: Lora, seed: int) -> Parameters[Any]:
    """What learns in a mode, starting from the encoder. Raises TrainingError if a head is not loaded or `lora.depth` is
    more than the blocks there are.
    """
    if encoder.sparse_head is None or encoder.multi_head is None:
        raise TrainingError(f"{encoder.spec.name} was loaded without its heads", "load all three signals")
    layers = len(encoder.backbone.layers)
    depth = layers if lora.depth is None else lora.depth
    if not 0 < depth <= layers:
        raise TrainingError(f"an adapter of depth {depth}: the backbone has {layers} blocks", f"name 1 to {layers}")
    heads = trainable(encoder.sparse_head), trainable(encoder.multi_head)
    if mode == "full":
        return Parameters(WholeBackbone.of(encoder.backbone), *heads)
    if mode == "heads":
        return Parameters(Adapter(0, lora.scale, {}), *heads)
    generator = torch.Generator().manual_seed(seed)
    return Parameters(Adapter.fresh(encoder.backbone, depth, lora.rank, lora.scale, generator), *heads)


def trained_encoder(encoder: Encoder, parameters: Parameters[Any]) -> Encoder:
    """The encoder with what was learned, as it is written: adapters merged, heads rounded to float16."""
    return replace(
        encoder,
        backbone=merged_backbone(encoder.backbone, parameters),
        sparse_head=shipped(parameters.sparse),
        multi_head=shipped(parameters.multi),
    )


def merged_backbone(backbone: Backbone, parameters: Parameters[Any]) -> Backbone:
    """A plain backbone in float32. Adapters are added to the weights in float64, then rounded once."""
    if not parameters.body.tensors:
        return backbone
    if isinstance(parameters.body, WholeBackbone):
        return detached(parameters.body.on(backbone), torch.float32)
    exact = detached(backbone, torch.float64)
    wide = {name: tensor.detach().double() for name, tensor in parameters.body.tensors.items()}
    return detached(merged(replace(parameters.body, tensors=wide).on(exact)), torch.float32)


def detached(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """The same weights in another precision, copied off from any gradient."""
    return with_tensors(backbone, {name: part.detach().to(dtype) for name, part in backbone_tensors(backbone)})
