"""Batches side by side against one batch on all cores: alone, and with a busy process beside.

python -m tests.bench.lanes --corpus passages.parquet [--texts 300] [--rounds 3] [--precision float32 int8]

The same texts with all three signals, tokenizing included, in turn; the best of the rounds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
import torch

from m3core.benchmark import seconds_of
from m3core.encoder import Encoder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="m3-small")
    parser.add_argument("--precision", nargs="+", default=["float32"])
    options = parser.parse_args()
    texts = pq.read_table(options.corpus, columns=["text"]).column("text").slice(5000, options.texts).to_pylist()
    print(f"{options.model}, {len(texts)} texts, {torch.get_num_threads()} threads, best of {options.rounds}: tokens/s")
    for precision in options.precision:
        encoder = Encoder.load(options.model, precision=precision)
        encoder.encode(texts[:20])
        for name, beside in (("alone", nullcontext), ("beside a busy process", busy_process)):
            with beside():
                lanes, one = measured(encoder, texts, options.rounds)
            print(
                f"{precision:<9} {name:<22} lanes {lanes:7,.0f}   one batch {one:7,.0f}   {lanes / one:.2f}", flush=True
            )
    return 0


def measured(encoder: Encoder, texts: Sequence[str], rounds: int) -> tuple[float, float]:
    """Tokens per second with lanes and without."""
    tokens = int(encoder.encode(texts).token_counts.sum())
    lanes = one = float("inf")
    for _ in range(rounds):
        lanes = min(lanes, seconds_of(lambda: encoder.encode(texts)))
        with patch("m3core.encoder.lane_count", return_value=1):
            one = min(one, seconds_of(lambda: encoder.encode(texts)))
    return tokens / lanes, tokens / one


@contextmanager
def busy_process() -> Iterator[None]:
    """One core's worth of other work."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
