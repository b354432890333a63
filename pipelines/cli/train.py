"""`m3 train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m3core.errors import ExitCode
from pipelines.cli.models import RevisionOption
from pipelines.cli.options import JsonOption
from pipelines.cli.report import SCHEMA_VERSION, note, print_json, say
from pipelines.cli.usage import fraction, one_of

if TYPE_CHECKING:
    from pipelines.train.job import Job
    from pipelines.train.prepared import Prepared
    from pipelines.train.run import Outcome

MODES = ("lora", "heads", "full")
PRESETS = ("keep", "mine")
PRECISIONS = ("auto", "float32", "bfloat16")
# Peak learning rates of the backbone's part: an adapter starts from nothing, weights from what they know.
_RATES = {"lora": 3e-4, "heads": 0.0, "full": 2e-5}
_INTERRUPTED = 130


def train(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA...", help="Rows: .jsonl (FlagEmbedding's) or .parquet, one or several."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder to write, new or empty.")],
    model: Annotated[str, typer.Option("--model", metavar="M", help="m3-small, a folder, or owner/name.")] = "m3-small",
    revision: RevisionOption = None,
    mode: Annotated[
        str,
        typer.Option("--mode", metavar="|".join(MODES), parser=one_of(*MODES), help="What learns besides the heads."),
    ] = MODES[0],
    depth: Annotated[int | None, typer.Option("--depth", min=1, metavar="N", help="lora: last N blocks.")] = None,
    rank: Annotated[int, typer.Option("--rank", min=1, metavar="N", help="lora: rank.")] = 32,
    scale: Annotated[float, typer.Option("--scale", min=0, metavar="X", help="lora: alpha / rank.")] = 2.0,
    epochs: Annotated[
        float | None, typer.Option("--epochs", min=0.01, metavar="X", help="Passes over the rows; default 1.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, metavar="N", help="At most N steps.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=1, metavar="N", help="About N tokens.")] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.01, metavar="X", help="At most X minutes.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0, metavar="X", help="Backbone's peak learning rate.")
    ] = None,
    head_rate: Annotated[
        float | None, typer.Option("--head-rate", min=0, metavar="X", help="Heads' peak rate.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=2, metavar="N", help="Most rows of a batch.")] = 64,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", min=64, metavar="N", help="Most tokens of a batch: fewer long rows.")
    ] = 65_536,
    part_tokens: Annotated[
        int, typer.Option("--sub-batch-tokens", min=16, metavar="N", help="Through the backbone at once: memory.")
    ] = 8_192,
    negatives: Annotated[int, typer.Option("--negatives", min=0, metavar="N", help="Of a row's neg each time.")] = 1,
    query_tokens: Annotated[
        int | None, typer.Option("--query-tokens", min=4, metavar="N", help="Longest query.")
    ] = None,
    passage_tokens: Annotated[
        int | None, typer.Option("--passage-tokens", min=4, metavar="N", help="Longest passage; default the model's.")
    ] = None,
    drop_long: Annotated[bool, typer.Option("--drop-long", help="Leave longer rows out instead of cutting.")] = False,
    teacher: Annotated[
        bool, typer.Option("--teacher-scores", help="Learn from pos_scores and neg_scores too.")
    ] = False,
    distil_after: Annotated[
        float, typer.Option("--distil-after", metavar="F", parser=fraction, help="Share before self-distillation.")
    ] = 0.1,
    tau: Annotated[
        float,
        typer.Option("--tau", min=0.001, max=1, metavar="X", help="Temperature of dense and multi; E5's is 0.01."),
    ] = 0.02,
    dev: Annotated[
        list[Path] | None, typer.Option("--dev", metavar="DIR", help="Measure on this BEIR folder; may be repeated.")
    ] = None,
    dev_queries: Annotated[int, typer.Option("--dev-queries", min=1, metavar="N", help="The first N of each.")] = 300,
    dev_every: Annotated[
        int | None, typer.Option("--dev-every", min=1, metavar="N", help="Steps between; default a tenth.")
    ] = None,
    patience: Annotated[
        int, typer.Option("--patience", min=0, metavar="N", help="Stop after N measurements without a better one.")
    ] = 0,
    presets: Annotated[
        str, typer.Option("--presets", metavar="|".join(PRESETS), parser=one_of(*PRESETS), help="Fusion weights.")
    ] = PRESETS[0],
    allow_shared: Annotated[
        bool, typer.Option("--allow-shared", help="Measure although --dev shares texts with the data.")
    ] = False,
    max_bad_rows: Annotated[int, typer.Option("--max-bad-rows", min=0, metavar="N", help="Broken rows allowed.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of batches and adapters.")] = 0,
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="|".join(PRECISIONS), parser=one_of(*PRECISIONS), help="Of the backbone."),
    ] = "auto",
    checkpoint_every: Annotated[
        float, typer.Option("--checkpoint-every", min=0, metavar="SECONDS", help="How much a kill can cost.")
    ] = 180.0,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="No losses.png; then matplotlib is not needed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, train nothing.")] = False,
    json: JsonOption = False,
) -> int:
    """Train a model further on your own pairs.

    Questions and passages; all three signals at once.

    The same command goes on where it was stopped. Several processes: torchrun --no-python --nproc-per-node 2 m3 train.
    """
    from m3core.train.finetune import Plan
    from m3core.train.modes import Lora
    from m3core.train.objective import Objective
    from m3core.train.parameters import Rates
    from m3core.train.record import shown_command
    from m3core.train.schedule import Batching
    from pipelines.train.job import Amount, Job, Watching

    defaults = Rates()
    rates = Rates(
        adapter=_RATES[mode] if rate is None else rate,
        sparse=defaults.sparse if head_rate is None else head_rate,
        multi=defaults.multi if head_rate is None else head_rate,
        distil_after=distil_after,
    )
    plan = Plan(
        batching=Batching(batch, batch_tokens, negatives, part_tokens),
        rates=rates,
        objective=Objective(tau=tau),
        teacher=teacher,
        seed=seed,
    )
    job = Job(
        data=tuple(data),
        out=out,
        model=model,
        revision=revision,
        mode=cast(Any, mode),
        lora=Lora(depth, rank, scale),
        query_tokens=query_tokens,
        passage_tokens=passage_tokens,
        drop_long=drop_long,
        max_bad_rows=max_bad_rows,
        amount=Amount(epochs, steps, tokens, minutes),
        plan=plan,
        precision=precision,
        watching=Watching(tuple(dev or ()), dev_queries, dev_every, patience, allow_shared),
        presets=cast(Any, presets),
        plot=not no_plot,
        checkpoint_seconds=checkpoint_every,
        command=shown_command("m3", sys.argv[1:]),
    )
    return _run(job, dry_run=dry_run, as_json=json)


def _run(job: Job, *, dry_run: bool, as_json: bool) -> int:
    from pipelines.train.prepared import prepare_job
    from pipelines.train.run import train as run

    prepared = prepare_job(job)
    for line in prepared.lines():
        note(line)
    if dry_run:
        return _end(_counts(prepared), as_json, [])
    outcome = run(prepared, sys.stderr)
    if outcome is None:
        return ExitCode.OK
    if outcome.signal is not None:
        return _INTERRUPTED if outcome.signal == "SIGINT" else ExitCode.TERMINATED
    return _end({**_counts(prepared), **_results(job, outcome)}, as_json, _closing(job, outcome))


def _end(document: dict[str, Any], as_json: bool, lines: list[str]) -> int:
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, **document})
    for line in [] if as_json else lines:
        say(line)
    return ExitCode.OK


def _counts(prepared: Prepared) -> dict[str, Any]:
    return {
        "rows": len(prepared.examples.examples),
        "broken": len(prepared.reading.broken),
        "duplicates": len(prepared.reading.duplicates),
        "cut": len(prepared.examples.cut),
        "dropped": len(prepared.examples.dropped),
        "shared_with_dev": len(prepared.shared),
        "planned_steps": prepared.budget.steps,
    }


def _results(job: Job, outcome: Outcome) -> dict[str, Any]:
    return {
        "model": str(job.out),
        "fingerprint": outcome.fingerprint,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "seconds": round(outcome.seconds, 1),
        "best_step": outcome.best_step,
        "losses": {name: round(value, 4) for name, value in outcome.losses.items()},
        "dev": {"before": outcome.before, "after": outcome.after},
    }


def _closing(job: Job, outcome: Outcome) -> list[str]:
    """What came out, and the next thing to type."""
    pace = outcome.tokens / max(outcome.seconds, 1e-9)
    lines = [f"trained {outcome.steps:,} steps, {outcome.tokens:,} tokens, {pace:,.0f} tokens/s into {job.out}"]
    if outcome.after and outcome.best_step != outcome.steps:
        lines.append(f"kept step {outcome.best_step:,}: it was the best one on --dev")
    for name, after in outcome.after.items():
        parts = [f"{run} {outcome.before[name][run]:.3f} -> {value:.3f}" for run, value in after.items()]
        lines.append(f"{name}  nDCG@10  {'   '.join(parts)}")
    return [*lines, f'Use it:  [model] name = "{job.out}" in m3.toml; its card is {job.out / "README.md"}']
