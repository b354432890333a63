"""Adapters: fresh ones change nothing, trained ones equal their merged weights, everywhere they are merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from m3core import Encoder
from m3core.errors import ModelError
from m3core.layout import PRODUCTS
from m3core.train.adapter import Adapter, merged
from m3core.zoo.m3_small import merge_adapter

_IDS, _LENGTHS = torch.tensor([2, 9, 8, 7, 3, 2, 5, 4, 6, 3]), [5, 5]


def _random_adapter(encoder: Encoder, depth: int) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    fresh = Adapter.fresh(encoder.backbone, depth, rank=3, scale=2.0, generator=generator)
    tensors = {name: torch.randn(part.shape, generator=generator) * 0.1 for name, part in fresh.tensors.items()}
    return replace(fresh, tensors=tensors)


def test_a_fresh_adapter_changes_nothing_and_only_it_has_a_gradient(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model)
    adapter = Adapter.fresh(encoder.backbone, 1, rank=4, scale=2.0, generator=torch.Generator().manual_seed(0))
    states = adapter.on(encoder.backbone)(_IDS, _LENGTHS)
    assert torch.equal(states, encoder.backbone(_IDS, _LENGTHS))
    states.square().sum().backward()
    gradients = {name: part.grad for name, part in adapter.tensors.items()}
    assert len(gradients) == 2 * len(PRODUCTS)
    assert all(part is not None for part in gradients.values())
    assert not any(layer.up.weight.requires_grad for layer in encoder.backbone.layers)


@pytest.mark.parametrize("depth", [1, 2])
def test_merged_weights_equal_the_two_thin_products(tiny_model: Path, depth: int) -> None:
    encoder = Encoder.load(tiny_model)
    adapted = _random_adapter(encoder, depth).on(encoder.backbone)
    states = adapted(_IDS, _LENGTHS)
    torch.testing.assert_close(merged(adapted)(_IDS, _LENGTHS), states, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states, encoder.backbone(_IDS, _LENGTHS), atol=1e-2)


def test_a_checkpoint_with_the_adapter_merged_gives_the_same_states(tiny_model: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(tiny_model)
    adapter = _random_adapter(encoder, 2)
    save_file(dict(adapter.tensors), tmp_path / "adapter.safetensors", {"scale": "2.0"})
    plain = load_file(tiny_model / "model.safetensors")
    prefix = next(name for name in plain if name.endswith("word_embeddings.weight")).split("embeddings.")[0]
    tensors = merge_adapter(
        {name.removeprefix(prefix): part.numpy() for name, part in plain.items()}, tmp_path / "adapter.safetensors"
    )
    for path in tiny_model.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).symlink_to(path)
    save_file({name: torch.from_numpy(part) for name, part in tensors.items()}, tmp_path / "model.safetensors")
    states = Encoder.load(tmp_path).backbone(_IDS, _LENGTHS)
    torch.testing.assert_close(states, adapter.on(encoder.backbone)(_IDS, _LENGTHS), atol=1e-5, rtol=1e-5)


def test_an_adapter_of_another_backbone_is_refused(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model)
    adapter = _random_adapter(encoder, 1)
    narrow = {name: part[:, :-1] if name.endswith("inner") else part for name, part in adapter.tensors.items()}
    with pytest.raises(ModelError, match=r"block 1, qkv"):
        replace(adapter, tensors=narrow).on(encoder.backbone)
