"""Largest batch in a fixed memory, and its pace, with and without splitting: M3-Embedding's table 8 on this machine.

    python tests/bench/efficient_batching.py [--memory-mib 3000] [--lengths 512 1024 2048] [--json FILE]

A random model with 8,194 positions (by default BGE-M3's shape with 6 of its 24 layers) takes one step: B queries
of 64 tokens, B passages of the length, adapters on every block. `whole` runs all texts in one pass, `split` passes of
--sub-batch-tokens. Each try is a process of its own, whose peak resident memory is read; the largest B is searched by
doubling, then by halving the gap. A try over the memory counts as not fitting: nothing is killed by force.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

QUERY_TOKENS = 64
WAYS = ("whole", "split")
# A search stops where the gap is so small a share of the batch.
_PRECISION = 0.1


@dataclass(frozen=True)
class Shape:
    """The random model."""

    hidden: int = 1024
    layers: int = 6
    heads: int = 16
    vocabulary: int = 8_000
    positions: int = 8_194


@dataclass(frozen=True)
class Try:
    """One batch: does it fit, and how fast is it."""

    length: int
    way: str
    batch: int
    peak_mib: float
    tokens_per_second: float


def one_step(shape: Shape, length: int, batch: int, part_tokens: int) -> float:
    """Seconds of one step with the given sub-batches. Runs in a process of its own."""
    import torch

    from m3core.train.gradient import Forward, Loss, Rows, batch_gradient
    from m3core.train.objective import Objective
    from m3core.train.signals import Embedded, embed, through_blocks

    torch.manual_seed(0)
    backbone, parameters = _random(shape)
    adapted = parameters.body.on(backbone)
    lengths = [QUERY_TOKENS] * batch + [length] * batch
    ids = [torch.randint(4, shape.vocabulary, (count,)) for count in lengths]

    def below(texts: Sequence[int]) -> torch.Tensor:
        return adapted.embed(torch.cat([ids[text] for text in texts]), [lengths[text] for text in texts])

    def above(states: torch.Tensor, texts: Sequence[int]) -> Embedded:
        counts = [lengths[text] for text in texts]
        states = through_blocks(adapted, states, counts, slice(None), None)
        heads = parameters.sparse, parameters.multi
        return embed(states, torch.cat([ids[text] for text in texts]), torch.tensor(counts), heads, "cls")

    forward = Forward(below, above, lengths)
    ignored = torch.zeros(batch, batch, dtype=torch.bool)
    rows = Rows(list(range(batch)), list(range(batch, 2 * batch)), ignored)
    started = time.perf_counter()
    batch_gradient(forward, rows, Loss(Objective(), torch.tensor([0, 1, 2, 3]), distil=True), part_tokens)
    return time.perf_counter() - started


def _random(shape: Shape):  # type: ignore[no-untyped-def]
    import torch

    from m3core.checkpoint import Architecture
    from m3core.heads import Linear
    from m3core.model import Backbone, Layer, Norm
    from m3core.train.adapter import Adapter
    from m3core.train.parameters import Parameters, trainable

    hidden = shape.hidden
    sizes = Architecture(
        "xlm-roberta", hidden, shape.layers, shape.heads, 4 * hidden, shape.vocabulary, shape.positions, 1e-5
    )

    def linear(outputs: int, inputs: int) -> Linear:
        return Linear(torch.randn(outputs, inputs) * 0.02, torch.zeros(outputs))

    def norm() -> Norm:
        return Norm(torch.ones(hidden), torch.zeros(hidden), sizes.layer_norm_eps)

    layers = tuple(
        Layer(
            linear(3 * hidden, hidden), linear(hidden, hidden), norm(), linear(4 * hidden, hidden),
            linear(hidden, 4 * hidden), norm(),
        )
        for _ in range(shape.layers)
    )  # fmt: skip
    tables = [torch.randn(rows, hidden) * 0.02 for rows in (shape.vocabulary, shape.positions, 1)]
    backbone = Backbone(sizes, *tables, norm(), layers)
    adapter = Adapter.fresh(backbone, shape.layers, 32, 2.0, torch.Generator().manual_seed(0))
    return backbone, Parameters(adapter, trainable(linear(1, hidden)), trainable(linear(hidden, hidden)))


def attempt(shape: Shape, length: int, way: str, batch: int, part_tokens: int) -> Try | None:
    """One try in a process of its own; None if that ended without an answer (its memory was refused)."""
    tokens = (QUERY_TOKENS + length) * batch
    job = {"shape": asdict(shape), "length": length, "batch": batch, "part": tokens if way == "whole" else part_tokens}
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    told = json.loads(done.stdout)
    return Try(length, way, batch, told["peak_mib"], tokens / told["seconds"])


def largest(shape: Shape, length: int, way: str, options: argparse.Namespace) -> Try | None:
    """The largest batch that stays within the memory, by doubling and then bisection."""
    best: Try | None = None
    low, high, batch = 0, None, 2
    while batch <= options.most:
        tried = attempt(shape, length, way, batch, options.sub_batch_tokens)
        fits = tried is not None and tried.peak_mib <= options.memory_mib
        told = "does not end" if tried is None else f"{tried.peak_mib:,.0f} MiB"
        print(f"  {length} {way} batch {batch}: {told}", file=sys.stderr, flush=True)
        if fits:
            low, best = batch, tried
        else:
            high = batch
        if high is not None and (high - low <= 1 or high - low <= _PRECISION * low):
            break
        batch = 2 * low if high is None else (low + high) // 2
        if not batch:
            break
    return best


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-mib", type=float, default=3000.0, help="peak resident memory of the process")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--sub-batch-tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=Shape.hidden)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--most", type=int, default=1024, help="no larger batch is tried")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        seconds = one_step(Shape(**job["shape"]), job["length"], job["batch"], job["part"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak}))
        return 0
    shape = Shape(hidden=options.hidden, layers=options.layers, heads=options.hidden // 64)
    found = {(length, way): largest(shape, length, way, options) for length in options.lengths for way in WAYS}
    print(
        f"largest batch within {options.memory_mib:,.0f} MiB; {shape.layers} layers of {shape.hidden}, "
        f"{shape.positions} positions"
    )
    print("| passage tokens | " + " | ".join(f"{way}: batch | tokens/s" for way in WAYS) + " |")
    print("|---:|" + "---:|---:|" * len(WAYS))
    for length in options.lengths:
        cells = []
        for way in WAYS:
            best = found[length, way]
            cells += ["none", "-"] if best is None else [str(best.batch), f"{best.tokens_per_second:,.0f}"]
        print(f"| {length} | {' | '.join(cells)} |")
    if options.json:
        rows = [asdict(best) for best in found.values() if best is not None]
        options.json.write_text(
            json.dumps({"options": {**vars(options), "json": str(options.json)}, "rows": rows}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
