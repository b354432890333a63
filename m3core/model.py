"""Our own forward pass for BERT and XLM-RoBERTa with the three M3 heads, on packed texts: no position is padding.

A batch is packed into one matrix of P = sum of lengths rows, texts ordered by length. Linear layers and norms see that
matrix, attention (m3core.attention) the texts in it. transformers is the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from m3core.attention import Attention, attention_within
from m3core.checkpoint import MCLS_STRIDE, Architecture, ModelSpec
from m3core.errors import ModelError
from m3core.gpu import to_device
from m3core.heads import Linear
from m3core.layout import EMBEDDINGS, NORMS, PRODUCTS, REFETCH, in_block
from m3core.precision import Execution
from m3core.products import Product, product
from m3core.weights import read_tensors, read_weights

# On a CPU so many rows go through both products at a time: what lies between them stays in the caches.
_FEED_ROWS = 1024


@dataclass(frozen=True)
class Norm:
    """LayerNorm over the last axis."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, states: Tensor) -> Tensor:
        return functional.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)

    def on(self, execution: Execution) -> Norm:
        """The same norm on another device, in another precision."""
        weight, bias = (values.to(execution.device, execution.dtype) for values in (self.weight, self.bias))
        return replace(self, weight=weight, bias=bias)


@dataclass(frozen=True)
class Layer:
    """One transformer block, post-norm. `qkv` is the three projections in one product."""

    qkv: Product
    attended: Product
    attended_norm: Norm
    up: Product
    down: Product
    down_norm: Norm

    def __call__(self, states: Tensor, attend: Attention) -> Tensor:
        mixed = self.attended(attend(self.qkv(states)))
        states = self.attended_norm(states + mixed)
        return self.down_norm(states + self._feed_forward(states))

    def _feed_forward(self, states: Tensor) -> Tensor:
        if states.device.type != "cpu" or len(states) <= _FEED_ROWS:
            return self.down(self.up.gelu(states))
        return torch.cat([self.down(self.up.gelu(part)) for part in torch.split(states, _FEED_ROWS)])

    def with_products(self, change: Callable[[str, Linear], Product]) -> Layer:
        """The same block with every plain linear layer changed; `change` is told its name in m3core.layout.PRODUCTS."""
        qkv, attended, up, down = (change(name, getattr(self, name)) for name in PRODUCTS)
        return replace(self, qkv=qkv, attended=attended, up=up, down=down)

    def on(self, execution: Execution) -> Layer:
        """The same block on another device, in another precision."""
        moved = self.with_products(lambda _, linear: product(linear, execution))
        return replace(moved, attended_norm=self.attended_norm.on(execution), down_norm=self.down_norm.on(execution))


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
        positions = position_ids(token_ids, lengths, self.architecture.padding)
        return self.norm(self.words[token_ids] + self.positions[positions] + self.types[0])

    def on(self, execution: Execution) -> Backbone:
        """The same weights on another device, in another precision."""
        words, positions, types = (
            values.to(execution.device, execution.dtype) for values in (self.words, self.positions, self.types)
        )
        return replace(
            self,
            words=words,
            positions=positions,
            types=types,
            norm=self.norm.on(execution),
            layers=tuple(layer.on(execution) for layer in self.layers),
        )

    def blocks(self, states: Tensor, lengths: Sequence[int], part: slice) -> Tensor:
        """Run some of the blocks, in order, over packed states `[P, H]`."""
        attend = attention_within(lengths, self.architecture.heads, states)
        for layer in self.layers[part]:
            states = layer(states, attend)
        return states


def position_ids(token_ids: Tensor, lengths: Sequence[int], padding: int | None) -> Tensor:
    """Position of each packed token within its text, `[P]`.

    A BERT (`padding` None) counts from 0. XLM-RoBERTa counts from `padding` + 1, and a padding token that a text itself
    spells out stays at `padding` and is not counted (transformers, create_position_ids_from_input_ids). Attention and
    heads see such a token like any other: the reference masks by length, not by id.
    """
    counts = to_device(torch.tensor(lengths), str(token_ids.device))
    starts = counts.cumsum(0) - counts
    if padding is None:
        return torch.arange(len(token_ids), device=token_ids.device) - _to_tokens(starts, counts, len(token_ids))
    counted = token_ids.ne(padding).long()
    running = counted.cumsum(0)
    before = (running - counted)[starts]
    return (running - _to_tokens(before, counts, len(token_ids))) * counted + padding


def _to_tokens(values: Tensor, counts: Tensor, tokens: int) -> Tensor:
    """A value of each text, repeated for its tokens. Told their number, a GPU need not be waited for."""
    return torch.repeat_interleave(values, counts, output_size=tokens)


def load_backbone(spec: ModelSpec) -> Backbone:
    """Load the backbone's weights in float32.

    Raises ModelError if the file is truncated, a tensor is missing or has another shape than config.json says.
    """
    sizes = spec.architecture
    tensors = {name: tensor.float() for name, tensor in read_tensors(read_weights(spec))}
    return Backbone(
        architecture=sizes,
        words=tensors[f"{EMBEDDINGS}word_embeddings.weight"],
        positions=tensors[f"{EMBEDDINGS}position_embeddings.weight"],
        types=tensors[f"{EMBEDDINGS}token_type_embeddings.weight"],
        norm=_norm(tensors, f"{EMBEDDINGS}LayerNorm", sizes.layer_norm_eps),
        layers=tuple(_layer(tensors, index, sizes.layer_norm_eps) for index in range(sizes.layers)),
    )


def _layer(tensors: Mapping[str, Tensor], index: int, eps: float) -> Layer:
    qkv, attended, up, down = (_product(tensors, [in_block(index, name) for name in PRODUCTS[key]]) for key in PRODUCTS)
    attended_norm, down_norm = (_norm(tensors, in_block(index, name), eps) for name in NORMS.values())
    return Layer(qkv=qkv, attended=attended, attended_norm=attended_norm, up=up, down=down, down_norm=down_norm)


def _product(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Linear:
    """Some linear layers, one under the other, as one. A single one is not copied: its weights stay mapped."""
    weights, biases = ([tensors[f"{name}.{part}"] for name in names] for part in ("weight", "bias"))
    return Linear(weights[0], biases[0]) if len(names) == 1 else Linear(torch.cat(weights), torch.cat(biases))


def _norm(tensors: Mapping[str, Tensor], name: str, eps: float) -> Norm:
    return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)


def check_head(head: Linear, name: str, spec: ModelSpec, outputs: int) -> Linear:
    """Return the head if its shape fits the backbone, else raise ModelError."""
    if tuple(head.weight.shape) != (outputs, spec.dense_dim):
        raise ModelError(
            f"{spec.folder / name}: weight is {list(head.weight.shape)}; "
            f"this backbone needs {[outputs, spec.dense_dim]}",
            REFETCH,
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
        weights = cls_places(starts, lengths, len(states)).to(states.dtype)
    rows = _to_tokens(torch.arange(len(lengths), device=states.device), lengths, len(states))
    sums = torch.zeros(len(lengths), states.shape[1], dtype=states.dtype, device=states.device)
    counts = torch.zeros(len(lengths), dtype=states.dtype, device=states.device).index_add_(0, rows, weights)
    return functional.normalize(sums.index_add_(0, rows, states * weights[:, None]) / counts[:, None], dim=-1)


def cls_places(starts: Tensor, lengths: Tensor, tokens: int) -> Tensor:
    """Which packed positions hold a cls of MCLS, bool `[tokens]`. A text's last token is its eos, never a cls."""
    place = torch.arange(tokens, device=starts.device) - _to_tokens(starts, lengths, tokens)
    last = _to_tokens(lengths - 1, lengths, tokens)
    return (place % MCLS_STRIDE == 0) & (place != last)


def token_weights(states: Tensor, head: Linear) -> Tensor:
    """relu(W h + b) of every packed position, `[P]`."""
    return torch.relu(head(states)).squeeze(-1)


def token_vectors(states: Tensor, kept: Tensor, head: Linear) -> Tensor:
    """Multi-vectors of the packed states at the places `kept` (int64 `[K]`): linear, norm 1, `[K, D']`."""
    return functional.normalize(head(states.index_select(0, kept)), dim=-1)
