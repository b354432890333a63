"""The heads of a model: linear layers in files of tensors, read without ever running a pickle's code."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from m3core.errors import ModelError
from m3core.layout import REFETCH, SPARSE_HEAD


@dataclass(frozen=True)
class Linear:
    """Weight `[out, in]` and bias `[out]`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.weight, self.bias)

    def gelu(self, states: Tensor) -> Tensor:
        """The layer, then the exact gelu."""
        return functional.gelu(self(states))

    def on(self, device: str, dtype: torch.dtype = torch.float32) -> Linear:
        """The same layer on another device, in another precision; heads stay in float32."""
        return Linear(self.weight.to(device, dtype), self.bias.to(device, dtype))


def read_head(folder: Path, name: str) -> Linear:
    """One head (`sparse_linear.pt` or `colbert_linear.pt`) in float32.

    Raises ModelError if it is missing, malformed or not finite: a head is never made up.
    """
    path = folder / name
    if not path.is_file():
        lost = "lexical weights" if name == SPARSE_HEAD else "multi-vectors"
        raise ModelError(
            f"{folder}: {name} is missing, so the model cannot give {lost}",
            "use a model with M3 heads, or ask for the dense signal only",
        )
    state = load_state_dict(path)
    weight, bias = state.get("weight"), state.get("bias")
    if weight is None or bias is None or weight.dim() != 2 or tuple(bias.shape) != (weight.shape[0],):
        raise ModelError(f"{path}: a head has weight [out, in] and bias [out]", REFETCH)
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise ModelError(f"{path}: the head has values that are not finite", REFETCH)
    return Linear(weight.float(), bias.float())


def write_head(head: Linear, path: Path) -> None:
    """Write a head as `read_head` reads it, in float16."""
    torch.save({"weight": head.weight.detach().half(), "bias": head.bias.detach().half()}, path)


def load_state_dict(path: Path, *, mmap: bool = False) -> dict[str, Tensor]:
    """Named tensors of a `.pt` or `.bin` file. Raises ModelError if it is malformed or holds anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        # torch's own text advises to load it without weights_only, which would run the code.
        raise ModelError(
            f"{path} is not a plain file of tensors (it is damaged, or holds code or other objects)", REFETCH
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} is not a plain file of tensors ({reason})", REFETCH) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds something else than named tensors", REFETCH)
    return state
