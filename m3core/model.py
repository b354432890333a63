"""Our own forward pass for BERT and XLM-RoBERTa with the three M3 heads, on packed texts: no position is padding.

A batch is packed into one matrix of P = sum of lengths rows, texts ordered by length. Linear layers and norms see that
matrix; attention runs on groups of equal length, `[n, heads, S, d]`, so it needs no mask. transformers is the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from m3core.checkpoint import MCLS_STRIDE, Architecture, ModelSpec
from m3core.errors import ModelError
from m3core.heads import Linear, load_state_dict
from m3core.precision import Execution

_REFETCH = "fetch the model folder again, or name another one"


@dataclass(frozen=True)
class Norm:
    """LayerNorm over the last axis."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, states: Tensor) -> Tensor:
        return functional.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Layer:
    """One transformer block, post-norm. `qkv` is the three projections in one product."""

    qkv: Linear
    attended: Linear
    attended_norm: Norm
    up: Linear
    down: Linear
    down_norm: Norm

    def __call__(self, states: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
        mixed = self.attended(_attention(self.qkv(states), lengths, heads))
        states = self.attended_norm(states + mixed)
        return self.down_norm(states + self.down(functional.gelu(self.up(states))))


@dataclass(frozen=True)
class Backbone:
    """Embeddings and blocks. Calling it gives the last hidden states of packed texts, `[P, H]`."""

    architecture: Architecture
    words: Tensor
    positions: Tensor
    types: Tensor
    norm: Norm
    layers: tuple[Layer, ...]

    def __call__(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """`token_ids` `[P]` are the texts one after another; `lengths` must come in runs of equal length."""
        return self.blocks(self.embed(token_ids, lengths), lengths, slice(None))

    def embed(self, token_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """States before the first block, `[P, H]`."""
        offset = self.architecture.position_offset
        positions = torch.cat([torch.arange(offset, offset + length) for length in lengths]).to(token_ids.device)
        return self.norm(self.words[token_ids] + self.positions[positions] + self.types[0])

    def on(self, execution: Execution) -> Backbone:
        """The same weights on another device, in another precision."""

        def tensor(values: Tensor) -> Tensor:
            return values.to(execution.device, execution.dtype)

        def linear(layer: Linear) -> Linear:
            return Linear(tensor(layer.weight), tensor(layer.bias))

        def norm(layer: Norm) -> Norm:
            return Norm(tensor(layer.weight), tensor(layer.bias), layer.eps)

        return Backbone(
            architecture=self.architecture,
            words=tensor(self.words),
            positions=tensor(self.positions),
            types=tensor(self.types),
            norm=norm(self.norm),
            layers=tuple(
                Layer(
                    qkv=linear(layer.qkv),
                    attended=linear(layer.attended),
                    attended_norm=norm(layer.attended_norm),
                    up=linear(layer.up),
                    down=linear(layer.down),
                    down_norm=norm(layer.down_norm),
                )
                for layer in self.layers
            ),
        )

    def blocks(self, states: Tensor, lengths: Sequence[int], part: slice) -> Tensor:
        """Run some of the blocks, in order, over packed states `[P, H]`."""
        for layer in self.layers[part]:
            states = layer(states, lengths, self.architecture.heads)
        return states


def _attention(qkv: Tensor, lengths: Sequence[int], heads: int) -> Tensor:
    """Softmax attention within each text; `qkv` `[P, 3H]` -> `[P, H]`."""
    hidden = qkv.shape[1] // 3
    runs = [(length, sum(1 for _ in run)) for length, run in groupby(lengths)]
    mixed = []
    # Split and cat, not slices of one buffer: their gradients are one copy each.
    for (length, texts), part in zip(runs, torch.split(qkv, [length * texts for length, texts in runs]), strict=True):
        # [n, S, 3, heads, d] -> 3 x [n, heads, S, d]
        q, k, v = part.view(texts, length, 3, heads, hidden // heads).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        mixed.append(out.transpose(1, 2).reshape(texts * length, hidden))
    return torch.cat(mixed)


def load_backbone(spec: ModelSpec) -> Backbone:
    """Load the backbone's weights in float32.

    Raises ModelError if the file is truncated, a tensor is missing or has another shape than config.json says.
    """
    tensors = _Tensors(spec)
    sizes = spec.architecture
    eps = sizes.layer_norm_eps
    words = tensors.get("embeddings.word_embeddings.weight", sizes.vocabulary, sizes.hidden)
    return Backbone(
        architecture=sizes,
        words=words,
        positions=tensors.get("embeddings.position_embeddings.weight", sizes.positions, sizes.hidden),
        types=tensors.get("embeddings.token_type_embeddings.weight", None, sizes.hidden),
        norm=tensors.norm("embeddings.LayerNorm", sizes.hidden, eps),
        layers=tuple(_layer(tensors, f"encoder.layer.{index}.", sizes) for index in range(sizes.layers)),
    )


def _layer(tensors: _Tensors, prefix: str, sizes: Architecture) -> Layer:
    hidden, ffn, eps = sizes.hidden, sizes.ffn, sizes.layer_norm_eps
    query, key, value = (tensors.linear(f"{prefix}attention.self.{part}", hidden, hidden) for part in _PROJECTIONS)
    return Layer(
        qkv=Linear(torch.cat([query.weight, key.weight, value.weight]), torch.cat([query.bias, key.bias, value.bias])),
        attended=tensors.linear(f"{prefix}attention.output.dense", hidden, hidden),
        attended_norm=tensors.norm(f"{prefix}attention.output.LayerNorm", hidden, eps),
        up=tensors.linear(f"{prefix}intermediate.dense", ffn, hidden),
        down=tensors.linear(f"{prefix}output.dense", hidden, ffn),
        down_norm=tensors.norm(f"{prefix}output.LayerNorm", hidden, eps),
    )


_PROJECTIONS = ("query", "key", "value")


class _Tensors:
    """The tensors of a checkpoint by name, with or without the model's own prefix, checked for shape."""

    def __init__(self, spec: ModelSpec) -> None:
        self._path = spec.weights_file
        self._tensors = _read_tensors(self._path)
        known = (f"{family}." for family in ("roberta", "bert", "model"))
        self._prefix = next((prefix for prefix in known if any(name.startswith(prefix) for name in self._tensors)), "")

    def get(self, name: str, *shape: int | None) -> Tensor:
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            raise ModelError(f"{self._path}: tensor {name} is missing", _REFETCH)
        expected = tuple(tensor.shape[i] if size is None else size for i, size in enumerate(shape))
        if tuple(tensor.shape) != expected:
            raise ModelError(f"{self._path}: {name} is {list(tensor.shape)}; config.json says {list(shape)}", _REFETCH)
        return tensor.float()

    def linear(self, name: str, outputs: int, inputs: int) -> Linear:
        return Linear(self.get(f"{name}.weight", outputs, inputs), self.get(f"{name}.bias", outputs))

    def norm(self, name: str, size: int, eps: float) -> Norm:
        return Norm(self.get(f"{name}.weight", size), self.get(f"{name}.bias", size), eps)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is not a whole safetensors file ({error})", _REFETCH) from None
    return load_state_dict(path, mmap=True)


def check_head(head: Linear, name: str, spec: ModelSpec, outputs: int) -> Linear:
    """Return the head if its shape fits the backbone, else raise ModelError."""
    if tuple(head.weight.shape) != (outputs, spec.dense_dim):
        raise ModelError(
            f"{spec.folder / name}: weight is {list(head.weight.shape)}; "
            f"this backbone needs {[outputs, spec.dense_dim]}",
            _REFETCH,
        )
    return head


def dense_vectors(states: Tensor, starts: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Pool packed states `[P, H]` to `[N, H]` and scale to norm 1.

    `cls`: the first token. `mean`: all tokens. `mcls`: the mean of all cls tokens (M3-Embedding, section 3.4), which
    stand at every MCLS_STRIDE-th place of a text.
    """
    if pooling == "cls":
        return functional.normalize(states[starts], dim=-1)
    weights = torch.ones(len(states), dtype=states.dtype, device=states.device)
    if pooling == "mcls":
        weights = cls_places(starts, lengths).to(states.dtype)
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = torch.zeros(len(lengths), states.shape[1], dtype=states.dtype, device=states.device)
    counts = torch.zeros(len(lengths), dtype=states.dtype, device=states.device).index_add_(0, rows, weights)
    return functional.normalize(sums.index_add_(0, rows, states * weights[:, None]) / counts[:, None], dim=-1)


def cls_places(starts: Tensor, lengths: Tensor) -> Tensor:
    """Which packed positions hold a cls of MCLS, bool `[P]`. A text's last token is its eos, never a cls."""
    place = torch.arange(int(lengths.sum()), device=starts.device) - torch.repeat_interleave(starts, lengths)
    last = torch.repeat_interleave(lengths - 1, lengths)
    return (place % MCLS_STRIDE == 0) & (place != last)


def token_weights(states: Tensor, head: Linear) -> Tensor:
    """relu(W h + b) of every packed position, `[P]`."""
    return torch.relu(head(states)).squeeze(-1)


def token_vectors(states: Tensor, dropped: Tensor, head: Linear) -> Tensor:
    """Multi-vectors of packed states but the `dropped` ones (bool `[P]`): linear, norm 1, `[P - dropped, D']`."""
    return functional.normalize(head(states[~dropped]), dim=-1)
