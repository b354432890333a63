"""Linear layers whose weights lie in the layout that oneDNN multiplies in, with the gelu in the same pass.

torch's own linear layer lets oneDNN reorder the weights at every call. These are private operators of torch: they are
tried once on a small product, and the plain layer stays where they are missing or give anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from m3core.heads import Linear

_TOLERANCE = 0.05  # of values around 1, in bfloat16


@dataclass(frozen=True)
class PrepackedLinear:
    """A linear layer on states `[P, in]` -> `[P, out]` of the weights' dtype. `weight` is in oneDNN's own layout."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, linear: Linear) -> PrepackedLinear:
        """Reorder a layer's weights; they are copied."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(linear.weight), linear.bias)

    def __call__(self, states: Tensor) -> Tensor:
        return self._product(states, "none", "")

    def gelu(self, states: Tensor) -> Tensor:
        """The layer and the exact gelu in one pass."""
        return self._product(states, "gelu", "none")

    def _product(self, states: Tensor, after: str, algorithm: str) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, after, [], algorithm)
        return product


@cache
@torch.inference_mode()
def prepacks(dtype: torch.dtype) -> bool:
    """Whether this torch can multiply prepacked weights of this dtype, and does it right."""
    chance = torch.Generator().manual_seed(0)
    weight, states = (torch.randn(32, 16, generator=chance).div_(4).to(dtype) for _ in range(2))
    plain = Linear(weight, torch.linspace(-1, 1, 32).to(dtype))
    try:
        packed = PrepackedLinear.of(plain)
        found = [packed(states), packed.gelu(states)]
    except (AttributeError, RuntimeError, TypeError):
        return False
    wanted = [plain(states), functional.gelu(plain(states))]
    return all((one.float() - other.float()).abs().max() < _TOLERANCE for one, other in zip(found, wanted, strict=True))
