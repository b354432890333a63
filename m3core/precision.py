"""Which device and which number format the backbone runs in: given, or the fastest here that is exact enough."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch.nn import functional

from m3core.errors import UsageError
from m3core.gpu import claimed_gpu
from m3core.int8 import int8_is_exact

Precision = Literal["float32", "bfloat16", "float16", "int8"]
# A product must be so much faster in bfloat16 before three digits are worth it.
_WORTH_IT = 1.5
_ROWS, _INPUTS, _OUTPUTS = 512, 384, 1536


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how the backbone runs. The heads always run in float32."""

    device: str
    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        """What the states between the layers are in; with int8 only the linear layers compute in integers."""
        dtype: torch.dtype = torch.float32 if self.precision == "int8" else getattr(torch, self.precision)
        return dtype


EXACT = Execution("cpu", "float32")
# oneDNN compiles a product for each number of rows and keeps the last 1,024 of them. Batches hardly ever have the same
# number, so that memory creeps up by over 100 MB. These are enough for the layers of one batch, and for queries.
_KEPT_PRODUCTS = 64


def bound_compiled_products() -> None:
    """Let oneDNN keep fewer compiled products, unless the environment says how many.

    It looks once, at the first product of the process: later calls change nothing.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KEPT_PRODUCTS))


def choose_execution(device: str = "auto", precision: str = "auto") -> Execution:
    """Resolve `auto`: a CUDA device if there is one; float16 on it; on a CPU bfloat16 where that is measured faster.

    Of several CUDA devices each process takes one of its own (m3core.gpu), unless its number is given.
    float16 rather than bfloat16 on CUDA: its mantissa is three bits finer, and the reference uses it. int8 is never
    chosen: its vectors do not meet the others'. Raises UsageError for a device that is not there or a precision that it
    cannot do.
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is none of auto, cpu, cuda, cuda:N", "name one of these")
    if kind == "cuda" and not cuda:
        raise UsageError(f"device {device}: torch finds no CUDA device here", "use cpu, or install torch for your GPU")
    if device == "cuda":
        device = claimed_gpu()
    if precision == "auto":
        return Execution(device, "float16" if kind == "cuda" else fastest_on_cpu())
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r} is none of auto, {', '.join(get_args(Precision))}", "name one")
    if (kind, precision) == ("cpu", "float16"):
        raise UsageError("precision float16 on a CPU is slow and overflows", "use float32 or bfloat16 there")
    if precision == "int8":
        _check_int8(kind)
    return Execution(device, precision)  # type: ignore[arg-type]


def _check_int8(kind: str) -> None:
    if kind != "cpu":
        raise UsageError(f"precision int8 on {kind}: it is for CPUs", "use auto there, or device cpu")
    if not int8_is_exact():
        raise UsageError(
            "precision int8: this CPU (or this torch) loses bits when it multiplies bytes; it needs VNNI", "use auto"
        )


@cache
def fastest_on_cpu() -> Precision:
    """float32, or bfloat16 if a small matrix product is clearly faster in it (AMX, AVX-512 bf16). Measured once."""
    exact, short = _seconds(torch.float32), _seconds(torch.bfloat16)
    return "bfloat16" if exact > _WORTH_IT * short else "float32"


@torch.inference_mode()
def _seconds(dtype: torch.dtype) -> float:
    rows, weight = torch.ones(_ROWS, _INPUTS, dtype=dtype), torch.ones(_OUTPUTS, _INPUTS, dtype=dtype)
    best = float("inf")
    for _ in range(4):  # The first one also creates the kernel.
        started = time.perf_counter()
        functional.linear(rows, weight)
        best = min(best, time.perf_counter() - started)
    return best
