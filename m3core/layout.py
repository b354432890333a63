"""Names of the files in a model folder of BGE-M3's layout."""

from __future__ import annotations

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
SPARSE_HEAD = "sparse_linear.pt"
MULTI_HEAD = "colbert_linear.pt"
ADAPTER = "adapter.safetensors"
