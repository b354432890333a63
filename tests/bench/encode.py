"""Tokens per second of three encoders on the same texts: ours, the bare backbone in transformers, FlagEmbedding.

    python -m tests.bench.encode --corpus passages.parquet [--model m3-small] [--tokens 40000] [--rounds 3]
        [--precision auto int8] [--flag-batches 16 64]

They take turns, and each one's fastest round counts; the first precision is what the others are compared with, and the
bare backbone runs in it. FlagEmbedding runs in the environment that `make reference-env`
makes; without it, its column is left out and the table says so. All read the same texts, cut at the same length.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from m3core.benchmark import seconds_of
from m3core.encoder import Encoder
from tests.bench.flag_worker import FlagWorker, find_reference


def texts_of(corpus: Path, encoder: Encoder, tokens: int, seed: int) -> list[str]:
    """Passages drawn at random until they hold that many tokens."""
    column = pq.read_table(corpus, columns=["text"]).column(0)
    chosen: list[str] = []
    total = 0
    for place in np.random.default_rng(seed).permutation(len(column)).tolist():
        chosen.append(column[place].as_py())
        total += min(encoder.tokenizer.count(chosen[-1:])[0], encoder.spec.max_length)
        if total >= tokens:
            break
    return chosen


class BareBackbone:
    """transformers' model of the same folder on batches of padded tokens, texts sorted by length; states only."""

    def __init__(self, encoder: Encoder, budget: int) -> None:
        from transformers import AutoModel

        dtype = encoder.execution.dtype
        self._model = AutoModel.from_pretrained(encoder.spec.folder, dtype=dtype, add_pooling_layer=False).eval()
        self._encoder, self._budget = encoder, budget

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> None:
        spec = self._encoder.spec
        rows, _ = self._encoder.tokenizer.encode(texts, spec.prefix("passage"), spec.max_length)
        rows.sort(key=len, reverse=True)
        while rows:
            size = max(1, self._budget // len(rows[0]))
            batch, rows = rows[:size], rows[size:]
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in batch], batch_first=True)
            lengths = torch.tensor([len(row) for row in batch])
            self._model(input_ids=ids, attention_mask=(torch.arange(ids.shape[1]) < lengths[:, None]).long())


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="Parquet with a column text")
    parser.add_argument("--model", default="m3-small")
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--precision", nargs="+", default=["auto"], help="of ours; the first one is compared")
    parser.add_argument("--flag-batches", type=int, nargs="+", default=[16, 64, 256], help="FlagEmbedding's")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoders = [Encoder.load(options.model, precision=precision) for precision in options.precision]
    encoder = encoders[0]
    texts = texts_of(options.corpus, encoder, options.tokens, options.seed)
    rows, _ = encoder.tokenizer.encode(texts, encoder.spec.prefix("passage"), encoder.spec.max_length)
    tokens = sum(len(row) for row in rows)
    bare = BareBackbone(encoder, options.batch_tokens)
    systems: dict[str, Callable[[], float]] = {
        f"ours, three signals, {each.execution.precision}": partial(
            seconds_of, partial(each.encode, texts, batch_tokens=options.batch_tokens)
        )
        for each in encoders
    }
    ours = next(iter(systems))
    systems["bare backbone (transformers)"] = partial(seconds_of, partial(bare, texts))
    reference = find_reference()
    if reference is not None:
        worker = FlagWorker(reference, encoder.spec, texts)
        systems |= {f"FlagEmbedding, batches of {size}": partial(worker.seconds, size) for size in options.flag_batches}
    best = dict.fromkeys(systems, float("inf"))
    for _ in range(options.rounds):
        for name, measure in systems.items():
            seconds = measure()
            best[name] = min(best[name], seconds)
            print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    print(f"{len(texts)} texts, {tokens:,} tokens, {options.model}, {encoder.execution.precision}, ", end="")
    print(f"{torch.get_num_threads()} threads, best of {options.rounds}")
    for name, seconds in best.items():
        print(f"  {name:<34} {tokens / seconds:>9,.0f} tokens/s   the first is {seconds / best[ours]:5.2f} times that")
    if reference is None:
        print("  FlagEmbedding: not measured, make reference-env first")
    return 0


if __name__ == "__main__":
    sys.exit(main())
