"""What a file of weights stores: names, shapes and dtypes, checked against config.json, and then the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from m3core.checkpoint import Architecture, ModelSpec
from m3core.errors import ModelError
from m3core.heads import load_state_dict
from m3core.layout import EMBEDDINGS, NORMS, PRODUCTS, REFETCH, in_block

if TYPE_CHECKING:
    from torch import Tensor

# A checkpoint of a model with a task on top names the backbone's tensors under one of these.
_PREFIXES = ("roberta.", "bert.", "model.")
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class StoredTensor:
    """Name, shape and dtype (`float32`, `bfloat16`, ...) of one tensor; `stored_as` is its name in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_as: str

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights: its size in bytes, the backbone's tensors, and those that the forward pass never reads."""

    path: Path
    size: int
    backbone: tuple[StoredTensor, ...]
    unused: tuple[StoredTensor, ...]

    @property
    def parameters(self) -> int:
        """Values of the backbone, without pooler and task heads."""
        return sum(tensor.size for tensor in self.backbone)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes of the backbone's tensors, each once, sorted."""
        return tuple(sorted({tensor.dtype for tensor in self.backbone}))


def read_weights(spec: ModelSpec) -> WeightsFile:
    """Read a model's file of weights, without its values.

    Raises ModelError if it is missing, truncated or unsafe, or if a tensor is missing, is not floating, or has another
    shape than config.json says.
    """
    path = spec.weights_file
    stored = tuple(_safetensors(path) if path.suffix == ".safetensors" else _pickled(path))
    prefix = next((known for known in _PREFIXES if any(name.startswith(known) for name, _, _ in stored)), "")
    tensors = {
        name.removeprefix(prefix): StoredTensor(name.removeprefix(prefix), shape, dtype, name)
        for name, shape, dtype in stored
    }
    expected = backbone_shapes(spec.architecture)
    for name, shape in expected.items():
        _check(path, tensors.get(name), name, shape)
    return WeightsFile(
        path=path,
        size=path.stat().st_size,
        backbone=tuple(tensors[name] for name in expected),
        unused=tuple(tensor for name, tensor in tensors.items() if name not in expected),
    )


def read_tensors(weights: WeightsFile) -> Iterator[tuple[str, Tensor]]:
    """The backbone's tensors as they are stored, one after another, by their names without the model's own prefix."""
    if weights.path.suffix != ".safetensors":
        stored = load_state_dict(weights.path, mmap=True)
        yield from ((tensor.name, stored[tensor.stored_as]) for tensor in weights.backbone)
        return
    from safetensors import safe_open

    with safe_open(weights.path, "pt") as file:
        yield from ((tensor.name, file.get_tensor(tensor.stored_as)) for tensor in weights.backbone)


def backbone_shapes(sizes: Architecture) -> dict[str, tuple[int | None, ...]]:
    """Shape of every tensor that the forward pass reads; None where any size will do."""
    hidden = sizes.hidden
    shapes: dict[str, tuple[int | None, ...]] = {
        f"{EMBEDDINGS}word_embeddings.weight": (sizes.vocabulary, hidden),
        f"{EMBEDDINGS}position_embeddings.weight": (sizes.positions, hidden),
        f"{EMBEDDINGS}token_type_embeddings.weight": (None, hidden),
        f"{EMBEDDINGS}LayerNorm.weight": (hidden,),
        f"{EMBEDDINGS}LayerNorm.bias": (hidden,),
    }
    # [outputs, inputs] of each linear layer of a product.
    products = {"qkv": (hidden, hidden), "attended": (hidden, hidden), "up": (sizes.ffn, hidden)}
    products["down"] = (hidden, sizes.ffn)
    for index in range(sizes.layers):
        for product, names in PRODUCTS.items():
            for name in names:
                shape = products[product]
                shapes |= {in_block(index, f"{name}.weight"): shape, in_block(index, f"{name}.bias"): shape[:1]}
        for name in NORMS.values():
            shapes |= {in_block(index, f"{name}.weight"): (hidden,), in_block(index, f"{name}.bias"): (hidden,)}
    return shapes


def _check(path: Path, tensor: StoredTensor | None, name: str, shape: tuple[int | None, ...]) -> None:
    if tensor is None:
        raise ModelError(f"{path}: tensor {name} is missing", REFETCH)
    fits = len(tensor.shape) == len(shape) and all(b in (None, a) for a, b in zip(tensor.shape, shape, strict=True))
    if not fits:
        told = ", ".join("any" if size is None else str(size) for size in shape)
        raise ModelError(f"{path}: {name} is {list(tensor.shape)}; config.json says [{told}]", REFETCH)
    if tensor.dtype not in _DTYPES.values():
        raise ModelError(f"{path}: {name} is stored as {tensor.dtype}; weights are floating", REFETCH)


def _safetensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                part = file.get_slice(name)
                yield name, tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a whole safetensors file ({error})", REFETCH) from None


def _pickled(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    # Mapped, so that no value is read.
    for name, tensor in load_state_dict(path, mmap=True).items():
        yield name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
