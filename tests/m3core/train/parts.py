"""Rows and runs for the tests of training: small, seeded, in float64 where gradients are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3core import Encoder
from m3core.train.distributed import ALONE, Group
from m3core.train.examples import Examples, Limits, Prefixes, Row, prepare
from m3core.train.finetune import Finetune, Plan
from m3core.train.modes import Lora, Mode, detached, parameters_of
from m3core.train.parameters import Parameters, trainable

_TEXT = "key desk cryostat travel train night front laboratory handed nine refunded thirty days Schlüssel Leitung"
WORDS = _TEXT.split()


def made_rows(count: int, seed: int = 0, negatives: int = 2, *, scores: bool = False) -> list[Row]:
    """Questions of words of their passage, in many lengths; some passages answer two questions."""
    rng = np.random.default_rng(seed)
    passages = [" ".join(rng.choice(WORDS, int(rng.integers(4, 60)))) for _ in range(count)]
    rows = []
    for i in range(count):
        others = [passages[j] for j in rng.permutation(count)[:negatives].tolist() if passages[j] != passages[i]]
        right = (passages[i],) if i % 3 else (passages[i], passages[i - 1])
        others = [text for text in others if text not in right]
        given = (
            (tuple(rng.random(len(right)).tolist()), tuple(rng.random(len(others)).tolist())) if scores else ((), ())
        )
        query = " ".join(passages[i].split()[:3]) + f" {i}"
        rows.append(Row(query, right, tuple(others), *given, place=f"rows.jsonl:{i + 1}"))
    return rows


def examples_of(encoder: Encoder, rows: Sequence[Row], *, drop_long: bool = False, passage: int = 96) -> Examples:
    prefixes = Prefixes(encoder.spec.query_prefix, encoder.spec.passage_prefix)
    return prepare(rows, encoder.tokenizer, prefixes, Limits(query=32, passage=passage, drop_long=drop_long))


def made_run(
    model: Path,
    mode: Mode,
    plan: Plan,
    rows: Sequence[Row],
    *,
    dtype: torch.dtype = torch.float32,
    group: Group = ALONE,
    lora: Lora = Lora(rank=4),  # noqa: B008 - frozen
) -> Finetune:
    """A run on the tiny model. Adapters get a random outer factor, so that both factors have a gradient."""
    encoder = Encoder.load(model, precision="float32")
    parameters = parameters_of(encoder, mode, lora, plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    tensors = {
        name: (part.detach() + 0.05 * torch.randn(part.shape, generator=generator)).to(dtype).requires_grad_()
        for name, part in parameters.body.tensors.items()
    }
    heads = [_as(head, dtype) for head in (parameters.sparse, parameters.multi)]
    parameters = Parameters(replace(parameters.body, tensors=tensors), *heads)
    encoder = replace(encoder, backbone=detached(encoder.backbone, dtype))
    return Finetune(encoder, parameters, examples_of(encoder, rows), plan, group)


def _as(head: Any, dtype: torch.dtype) -> Any:
    return trainable(replace(head, weight=head.weight.to(dtype), bias=head.bias.to(dtype)))


def gradients(run: Finetune, step: int = 0, share: float = 1.0) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient by parameter of one step; what got none is left out."""
    tensors = run.parameters.tensors()
    for tensor in tensors.values():
        tensor.grad = None
    loss = run.learn(step, share).loss
    return loss, {name: tensor.grad.clone() for name, tensor in tensors.items() if tensor.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float) -> None:
    """Relative L2 distance of every parameter's gradient."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        distance = float((found[name] - gradient).norm() / gradient.norm().clamp(min=1e-30))
        assert distance < limit, f"{name}: {distance}"
