"""Linear layers in 8-bit integers: a quarter of the bytes, exact sums, scales by output and by row of the input.

A row x of the input is stored as q = (x - m) / s, rounded to 0..255, with m its least value and s a 255th of its range;
a row w of the weight as symmetric -127..127 with the scale t. Then w.x = s t (w'.q) + m t (sum of w'), where w' is the
stored weight. No scale is shared between rows, so a text's vectors do not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from m3core.heads import Linear

_STEPS = 255  # of an unsigned byte
_LARGEST = 127  # of a symmetric signed byte
# Rows that are quantised, multiplied and scaled together: what they take stays in a core's cache.
_ROWS = 1024
# A row whose values are all equal has no range; its offset alone is exact.
_LEAST_SCALE = 1e-12


@dataclass(frozen=True)
class Int8Linear:
    """A linear layer on float32 states `[P, in]` -> `[P, out]`. `weight` is in oneDNN's own layout.

    `scales` and `zeros` are `[out]`; `offsets` `[2, out]` is what a row's least value adds per unit, and the bias.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, linear: Linear) -> Int8Linear:
        """Quantise a layer's float32 weights."""
        scales = linear.weight.abs().amax(1).clamp(min=_LEAST_SCALE) / _LARGEST
        stored = torch.round(linear.weight / scales[:, None]).to(torch.int8)
        sums = stored.sum(1, dtype=torch.int32).float() * scales
        return cls(
            weight=torch.ops.onednn.qlinear_prepack(stored, None),
            scales=scales,
            zeros=torch.zeros(len(scales), dtype=torch.int64),
            offsets=torch.stack([sums, linear.bias]),
        )

    def __call__(self, states: Tensor) -> Tensor:
        out = states.new_empty(len(states), len(self.scales))
        for rows, place in zip(torch.split(states, _ROWS), torch.split(out, _ROWS), strict=True):
            self._multiply(rows, place)
        return out

    def gelu(self, states: Tensor) -> Tensor:
        """The layer, then the exact gelu."""
        return functional.gelu(self(states))

    def _multiply(self, states: Tensor, out: Tensor) -> None:
        least = states.amin(-1, keepdim=True)  # aminmax takes seven times as long
        scale = ((states.amax(-1, keepdim=True) - least) / _STEPS).clamp_(min=_LEAST_SCALE)
        # Half a step down, so that the cut to an integer rounds.
        stored = states.sub(least - scale / 2).mul_(1 / scale).to(torch.uint8)
        torch.mul(_product(stored, self.weight, self.scales, self.zeros), scale, out=out)
        out.addmm_(torch.cat([least, torch.ones_like(least)], dim=1), self.offsets)


def _product(stored: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Bytes `[P, in]` times a prepacked weight, each output times its scale: float32 `[P, out]`."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        stored, 1.0, 0, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


@cache
@torch.inference_mode()
def int8_is_exact() -> bool:
    """Whether this torch and CPU multiply bytes without losing bits. Before VNNI, sums of two products saturate."""
    inputs, outputs = 64, 16
    weight = torch.full((outputs, inputs), _LARGEST, dtype=torch.int8)
    stored = torch.full((2, inputs), _STEPS, dtype=torch.uint8)
    scales, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    try:
        found = _product(stored, torch.ops.onednn.qlinear_prepack(weight, None), scales, zeros)
    except (AttributeError, RuntimeError):  # torch without oneDNN, or with another signature
        return False
    return bool((found == _STEPS * _LARGEST * inputs).all())
