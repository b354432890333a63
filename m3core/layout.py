"""Names in a model folder of BGE-M3's layout: its files, and the tensors of its backbone."""

from __future__ import annotations

from collections.abc import Mapping

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
SPARSE_HEAD = "sparse_linear.pt"
MULTI_HEAD = "colbert_linear.pt"
ADAPTER = "adapter.safetensors"
# The remedy where a file of a model folder is damaged or does not fit the others.
REFETCH = "fetch the model folder again, or name another one"

EMBEDDINGS = "embeddings."
# The linear layers of m3core.model.Layer -> the tensors' names in a block, one under the other in one product.
PRODUCTS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attended": ("attention.output.dense",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
}
# Its norms -> the tensors' names in a block.
NORMS: Mapping[str, str] = {"attended_norm": "attention.output.LayerNorm", "down_norm": "output.LayerNorm"}


def in_block(index: int | str, name: str) -> str:
    """The whole name of a tensor or layer of one block."""
    return f"encoder.layer.{index}.{name}"
