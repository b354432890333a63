"""How fast a model encodes here: all three signals end to end, against the bare backbone on the same tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from m3core.encoder import Encoder


@dataclass(frozen=True, slots=True)
class EncodeFigures:
    """What was measured. `seconds` are the best of the rounds; `padding` is the share of tokens that a batch padded to
    its longest text would add to the `tokens` that were encoded (ours computes none of it).
    """

    texts: int
    tokens: int
    truncated: int
    threads: int
    padding: float
    seconds: float
    backbone_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Tokenizing, forward pass, heads and arrays."""
        return self.tokens / self.seconds

    @property
    def backbone_share(self) -> float:
        """Our speed as a share of the backbone's alone, 0 to 1."""
        return self.backbone_seconds / self.seconds


def measure_encoding(encoder: Encoder, texts: Sequence[str], batch_tokens: int | None, rounds: int) -> EncodeFigures:
    """Encode passages `rounds` times, in turn with the bare backbone, after one small warm-up. `texts` is not empty."""
    encoder.encode(texts[:2], batch_tokens=batch_tokens)
    spec = encoder.spec
    ids, truncated = encoder.tokenizer.encode(texts, spec.prefix("passage"), spec.limit("passage"), spec.cls_stride)
    lengths = [len(row) for row in ids]

    @torch.inference_mode()
    def bare(indices: list[int]) -> int:
        counts = [lengths[i] for i in indices]
        packed = torch.tensor([token for i in indices for token in ids[i]])
        encoder.backbone(packed.to(encoder.execution.device), counts).float().cpu()
        return max(counts) * len(counts) - sum(counts)

    padded: list[int] = []

    def backbone() -> None:
        padded[:], _ = encoder.run_batches(lengths, batch_tokens, bare)

    whole, alone = float("inf"), float("inf")
    for _ in range(rounds):
        whole = min(whole, seconds_of(lambda: encoder.encode(texts, batch_tokens=batch_tokens)))
        alone = min(alone, seconds_of(backbone))
    padding = sum(padded) / sum(lengths)
    return EncodeFigures(len(texts), sum(lengths), sum(truncated), torch.get_num_threads(), padding, whole, alone)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
