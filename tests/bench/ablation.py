"""The ablation of M3-Embedding's section 4.4 at a fixed number of pairs: what joint training and distillation bring.

    python tests/bench/ablation.py --data pairs.parquet --dev DIR ... --out FOLDER [--model BACKBONE] [--pairs 12000]

Arms: the joint loss; the joint loss with self-knowledge distillation; each signal alone. Three seeds each; a seed draws
the same pairs and batches for every arm. One JSON file a run in --out: a run that is there is not made again, so the
command goes on where it was stopped. At the end a table with its spread (table.md) and a plot (ablation.png).
A signal's own figure is nDCG@10 of that signal, `fused` that of all three with weights 1, 0.3, 1.

Batches hold passages that resemble one another: among random ones the sum is sure of the right passage after a hundred
steps, and has nothing left to teach (--batches random shows it).

Adapters sit on the last --depth blocks; what the blocks under them give is computed once a seed, for all five arms.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3core.encoder import Encoder
from m3core.evaluate.beir import MIRACL_WEIGHTS
from m3core.heads import Linear
from m3core.precision import choose_execution
from m3core.train.examples import Examples, Limits, Prefixes, Row, prepare
from m3core.train.finetune import Finetune, Plan
from m3core.train.loop import Budget
from m3core.train.losses import TAU
from m3core.train.modes import Lora, parameters_of
from m3core.train.objective import Objective
from m3core.train.pairs import Pair, bounded_per_passage, read_pairs, sample_languages
from m3core.train.parameters import Rates
from m3core.train.schedule import Batch, Batching, Schedule
from m3core.train.similar import similar_batches
from m3core.train.states import States, states_of_ids
from m3core.types import ALL_SIGNALS, Signal
from pipelines.train.dev import DevSets

_NEVER = 1.0
# A batch of 48 pairs is one part of this size: its blocks run once a step.
_PART_TOKENS = 16_384
_RUNS = ("dense", "lexical", "multi", "fused")
_LOSS_EVERY = 25
# What the runs of one table have in common.
_SETTINGS = ("pairs", "batches", "batch", "tau", "depth", "multi_dim", "steps", "dev_queries")


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    signals: tuple[Signal, ...] = ALL_SIGNALS
    distil_after: float = _NEVER


ARMS = (
    Arm("joint"),
    Arm("joint+distillation", distil_after=0.1),
    *(Arm(f"{signal.value} alone", (signal,)) for signal in ALL_SIGNALS),
)


@dataclass(frozen=True)
class Drawn:
    """What a seed draws for all arms: rows, their texts, the batches, the texts' states under the adapted blocks."""

    seed: int
    examples: Examples
    schedule: Schedule
    states: States


class SimilarBatches(Schedule):
    """One epoch of batches whose passages resemble one another, of one source and language each."""

    def __init__(self, examples: Examples, drawn: Sequence[Pair], batching: Batching, seed: int) -> None:
        super().__init__(examples, batching, seed)
        rows = [drawn[int(one.row.place)] for one in examples.examples]
        texts, groups = [pair.positive for pair in rows], [pair.group for pair in rows]
        rng = np.random.default_rng(seed)
        self._batches = [
            Batch(tuple(members), tuple(self._examples[i].positives[0] for i in members), ((),) * len(members))
            for members in similar_batches(texts, groups, batching.rows, rng)
        ]
        self.steps_per_epoch = len(self._batches)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        return self._batches[step % len(self._batches)]


def drawn(seed: int, options: argparse.Namespace) -> Drawn:
    """Draw a seed's pairs and run the frozen blocks over them, once."""
    encoder = plain(options)
    chosen = drawn_pairs(options.data, options.pairs, seed)
    rows = [Row(pair.query, (pair.positive,), place=str(index)) for index, pair in enumerate(chosen)]
    prefixes = Prefixes(encoder.spec.query_prefix, encoder.spec.passage_prefix)
    examples = prepare(rows, encoder.tokenizer, prefixes, Limits(64, 256))
    batching = Batching(rows=options.batch, negatives=0, part_tokens=_PART_TOKENS)
    schedule = Schedule(examples, batching, seed)
    if options.batches == "similar":
        schedule = SimilarBatches(examples, chosen, batching, seed)
    frozen = len(encoder.backbone.layers) - options.depth
    what = f"seed {seed} "
    return Drawn(seed, examples, schedule, states_of_ids(encoder.backbone, examples.token_ids, 1, frozen, what, say))


def plain(options: argparse.Namespace) -> Encoder:
    """The backbone that every arm starts from."""
    return Encoder.load(options.model, signals=[Signal.DENSE], device="cpu", precision="float32")


def say(line: str) -> None:
    """Tell progress."""
    print(line, file=sys.stderr)


def drawn_pairs(data: Path, pairs: int, seed: int) -> list[Pair]:
    """Questions with their passages, languages in proportion to n ** 0.5."""
    rng = np.random.default_rng(seed)
    questions = bounded_per_passage([pair for pair in read_pairs(data) if not pair.translation], rng)
    return sample_languages(questions, pairs, 0.5, rng)


def random_heads(encoder: Encoder, width: int, seed: int) -> Encoder:
    """The encoder with heads that know nothing, the same for every arm of a seed."""
    from dataclasses import replace

    generator = torch.Generator().manual_seed(seed)
    hidden = encoder.spec.dense_dim
    directions = torch.linalg.qr(torch.randn(hidden, width, generator=generator)).Q.T.contiguous()
    sparse = Linear(torch.randn(1, hidden, generator=generator) / hidden, torch.full((1,), 0.1))
    return replace(
        encoder,
        spec=replace(encoder.spec, multi_dim=width),
        signals=ALL_SIGNALS,
        sparse_head=sparse,
        multi_head=Linear(directions, torch.zeros(width)),
    )


def run(arm: Arm, pairs: Drawn, dev: DevSets, options: argparse.Namespace) -> dict[str, Any]:
    """Train one arm with one seed and measure it."""
    seed = pairs.seed
    encoder = random_heads(plain(options), options.multi_dim, seed)
    precision = choose_execution("cpu", "auto").precision
    plan = Plan(
        Batching(part_tokens=_PART_TOKENS),
        Rates(adapter=2e-4, sparse=2e-3, multi=2e-3, distil_after=arm.distil_after),
        Objective(arm.signals, options.tau),
        Budget(),
        seed=seed,
        precision=precision,
    )
    parameters = parameters_of(encoder, "lora", Lora(options.depth), seed)
    finetune = Finetune(encoder, parameters, pairs.examples, plan, schedule=pairs.schedule, kept=pairs.states)
    steps = min(options.steps or pairs.schedule.steps_per_epoch, pairs.schedule.steps_per_epoch)
    finetune.loop.budget = Budget(steps=steps)
    started = time.monotonic()

    def told() -> bool:
        if finetune.loop.step % 20 == 0:
            row = finetune.loop.history[-1]
            say(f"{arm.name} seed {seed}: step {finetune.loop.step}/{steps} loss {row['loss']:.3f}")
        return False

    finetune.loop.run(finetune.learn, lambda step: finetune.blame(step, None), told)
    figures = dev.figures(finetune.trained(), MIRACL_WEIGHTS)
    return {
        "arm": arm.name,
        "seed": seed,
        "settings": settings(options),
        "steps": steps,
        "seconds": round(time.monotonic() - started, 1),
        "precision": precision,
        "dev": figures,
        "mean": {name: float(np.mean([part[name] for part in figures.values()])) for name in _RUNS},
        "losses": finetune.loop.history[::_LOSS_EVERY],
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be the same in every run of a table."""
    return {name: getattr(options, name) for name in _SETTINGS} | {"dev": [folder.name for folder in options.dev]}


def kept(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs that were made. Raises SystemExit if one of them was made with other settings."""
    paths = sorted(folder.glob("*-[0-9]*.json"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if result["settings"] != settings(options):
            raise SystemExit(f"{path} was made with {result['settings']}; give these, or another folder for --out")
    return results


def keep(result: Mapping[str, Any], path: Path) -> None:
    """Write a run's figures, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds with the standard deviation; of a signal trained alone only its own figure means anything."""
    lines = [f"| arm | {' | '.join(_RUNS)} | seeds |", "|---|" + "---:|" * (len(_RUNS) + 1)]
    for arm in ARMS:
        found = [result for result in results if result["arm"] == arm.name]
        if not found:
            continue
        cells = []
        for name in _RUNS:
            values = [result["mean"][name] for result in found]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            known = len(arm.signals) > 1 or name == arm.signals[0].value
            cells.append(f"{np.mean(values):.4f} ± {spread:.4f}" if known else "-")
        lines.append(f"| {arm.name} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel a figure, a dot a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(_RUNS), sharey=True), _RUNS, strict=True):
        for place, arm in enumerate(ARMS):
            if len(arm.signals) == 1 and name != arm.signals[0].value:
                continue
            values = [result["mean"][name] for result in results if result["arm"] == arm.name]
            axes.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.6)
            axes.plot(np.mean(values) if values else [], place if values else [], "|", color="#D55E00", markersize=16)
        axes.set_title(f"{name}, nDCG@10", fontsize=10, loc="left")
        axes.set_yticks(range(len(ARMS)), [arm.name for arm in ARMS])
        axes.set_ylim(len(ARMS) - 0.5, -0.5)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    figure.savefig(path, format="png", dpi=160)


def main() -> int:
    """Make the runs that are missing, then the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Parquet: query, positive, language, source, kind")
    parser.add_argument("--dev", type=Path, nargs="+", required=True, help="BEIR folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", default="m3-small", help="its heads are not used; a plain backbone is the honest start"
    )
    parser.add_argument("--pairs", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of this command; the table has all")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--batches", choices=("similar", "random"), default="similar")
    parser.add_argument("--tau", type=float, default=TAU, help="temperature of dense and multi-vector scores")
    parser.add_argument("--depth", type=int, default=3, help="last blocks that get an adapter")
    parser.add_argument("--multi-dim", type=int, default=128)
    parser.add_argument("--dev-queries", type=int, default=300)
    parser.add_argument("--steps", type=int, help="at most; default: one epoch")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept(options.out, options)
    dev = DevSets.read(options.dev, options.dev_queries)
    for seed in options.seeds:
        paths = {arm: options.out / f"{arm.name.replace(' ', '-')}-{seed}.json" for arm in ARMS}
        missing = [arm for arm, path in paths.items() if not path.is_file()]
        if missing:
            pairs = drawn(seed, options)
            for arm in missing:
                keep(run(arm, pairs, dev, options), paths[arm])
    results = kept(options.out, options)
    (options.out / "table.md").write_text(table(results), encoding="utf-8")
    plot(results, options.out / "ablation.png")
    print(table(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
