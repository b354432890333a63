"""How a backbone's linear layers are multiplied: plain, prepacked, or in int8, as its execution asks."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from m3core.heads import Linear
from m3core.int8 import Int8Linear
from m3core.precision import Execution
from m3core.prepacked import PrepackedLinear, prepacks


class Product(Protocol):
    """A linear layer on packed states `[P, in]` -> `[P, out]`."""

    def __call__(self, states: Tensor) -> Tensor: ...

    def gelu(self, states: Tensor) -> Tensor:
        """The layer, then the exact gelu."""
        ...


def product(linear: Linear, execution: Execution) -> Product:
    """The layer as `execution` runs it.

    Prepacked only in bfloat16: in float32 it was 5 % faster on long batches and slower on single queries, because
    oneDNN compiles a product for every number of rows (tests/bench/RESULTS.md).
    """
    if execution.precision == "int8":
        return Int8Linear.of(linear)
    moved = linear.on(execution.device, execution.dtype)
    if execution.device == "cpu" and execution.dtype == torch.bfloat16 and prepacks(execution.dtype):
        return PrepackedLinear.of(moved)
    return moved
