"""Backbone states of many texts, computed once by its frozen blocks and kept in float16."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m3core.batching import TokenBudget, forward_all
from m3core.encoder import Encoder
from m3core.errors import TrainingError
from m3core.model import Backbone
from m3core.types import TextKind

Say = Callable[[str], None]
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class States:
    """States of N texts after the frozen blocks, packed: `hidden` f16 `[P, H]`, `ids` `[P]`, `offsets` `[N + 1]`.

    `leading` counts the tokens before a text's own: the first special and the prefix.
    """

    hidden: Tensor
    ids: Tensor
    offsets: Tensor
    leading: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, texts: Sequence[int]) -> list[slice]:
        """Where each text lies in `hidden` and `ids`."""
        return [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in texts]


@torch.inference_mode()
def frozen_states(
    encoder: Encoder, texts: Sequence[str], kind: TextKind, max_length: int, frozen: int, say: Say
) -> States:
    """Run the first `frozen` blocks once over all texts (with the model's prefix); results in their order."""
    prefix = encoder.spec.prefix(kind)
    token_ids, _ = encoder.tokenizer.encode(texts, prefix, max_length)
    leading = encoder.tokenizer.special_overhead(prefix) - 1
    return states_of_ids(encoder.backbone, [torch.tensor(ids) for ids in token_ids], leading, frozen, f"{kind} ", say)


@torch.inference_mode()
def states_of_ids(
    backbone: Backbone, token_ids: Sequence[Tensor], leading: int, frozen: int, what: str, say: Say
) -> States:
    """Run the first `frozen` blocks once over texts of these ids; `what` they are is for `say`."""
    lengths = torch.tensor([len(ids) for ids in token_ids])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    hidden = torch.empty(int(offsets[-1]), backbone.words.shape[1], dtype=torch.float16)
    started, told = time.monotonic(), 0.0
    done = 0

    def forward(indices: list[int]) -> None:
        nonlocal done, told
        counts = lengths[indices].tolist()
        packed = torch.cat([token_ids[i] for i in indices]).long()
        states = backbone.blocks(backbone.embed(packed, counts), counts, slice(frozen))
        _scatter(hidden, offsets, indices, torch.split(states.half(), counts))
        done += len(packed)
        if (seconds := time.monotonic() - started) > told + 10:
            told = seconds
            say(f"{what}states: {done:,} of {int(offsets[-1]):,} tokens, {done / seconds:,.0f} tokens/s")

    _run(lengths.tolist(), forward)
    ids = torch.cat([*token_ids]).long()
    return States(hidden, ids, offsets, leading)


@torch.inference_mode()
def finished(states: States, texts: Sequence[int], backbone: Backbone, frozen: int) -> States:
    """Some texts' states after the other blocks too, in float32, in the order of `texts`."""
    rows = states.rows(texts)
    lengths = [row.stop - row.start for row in rows]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    hidden = torch.empty(int(offsets[-1]), states.hidden.shape[1])

    def forward(indices: list[int]) -> None:
        counts = [lengths[i] for i in indices]
        packed = torch.cat([states.hidden[rows[i]] for i in indices]).float()
        done = backbone.blocks(packed, counts, slice(frozen, None))
        _scatter(hidden, offsets, indices, torch.split(done, counts))

    _run(lengths, forward)
    ids = torch.cat([states.ids[row] for row in rows])
    return States(hidden, ids, offsets, states.leading)


def _run(lengths: Sequence[int], forward: Callable[[list[int]], None]) -> None:
    _, alone = forward_all(lengths, _BATCH_TOKENS, TokenBudget(), forward)
    if alone:
        raise TrainingError(f"text {alone[0]} does not fit in memory alone", "train on shorter texts")


def _scatter(target: Tensor, offsets: Tensor, indices: Sequence[int], parts: Sequence[Tensor]) -> None:
    for index, part in zip(indices, parts, strict=True):
        target[int(offsets[index]) : int(offsets[index + 1])] = part
