"""A job with its data read and checked: what will be trained on, and what will not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m3core.conversion import check_target
from m3core.encoder import Encoder
from m3core.errors import UsageError
from m3core.train.examples import Examples, Limits, Prefixes, prepare
from m3core.train.loop import Budget
from m3core.train.schedule import Schedule
from pipelines.train.curves import check_plot
from pipelines.train.dev import DevSets, refuse_shared
from pipelines.train.job import Amount, Job
from pipelines.train.rows import Reading, read_rows, shortened


@dataclass(frozen=True)
class Prepared:
    """A job with its data read and checked, nothing trained yet."""

    job: Job
    reading: Reading
    dev: DevSets
    shared: Sequence[str]
    encoder: Encoder
    limits: Limits
    examples: Examples
    schedule: Schedule
    budget: Budget

    def lines(self) -> list[str]:
        """What will be trained on, and what will not."""
        lines = [*self.reading.lines(), *self.dev.lines()]
        limit = f"over {self.limits.query:,} tokens (query) or {self.limits.passage:,} (passage)"
        for places, done in ((self.examples.cut, "cut there"), (self.examples.dropped, "left out")):
            if places:
                lines.append(f"{len(places):,} rows with a text {limit}, {done}: {shortened(places)}")
        if self.shared:
            lines.append(f"{len(self.shared):,} texts are trained on and measured with: {shortened(self.shared, 3)}")
        sizes = ", ".join(
            f"{len(bucket.members):,} up to {bucket.limit:,} tokens (batches of {bucket.size})"
            for bucket in self.schedule.buckets
        )
        lines.append(f"{len(self.examples.examples):,} rows: {sizes}")
        amount = f"{self.budget.steps:,} steps" if self.budget.steps is not None else "no limit of steps"
        minutes = f", at most {self.budget.seconds / 60:g} minutes" if self.budget.seconds is not None else ""
        lines.append(f"{amount}, {self.schedule.steps_per_epoch:,} an epoch{minutes}")
        return lines


def prepare_job(job: Job) -> Prepared:
    """Read and check everything that a run needs.

    Raises UsageError if the output is taken or a file cannot be read, TrainingError if the data cannot be used,
    RefusedError if dev sets share texts with it, MissingExtraError without matplotlib, and what loading a model raises.
    """
    check_target(job.out)
    if job.plot:
        check_plot()
    if job.presets == "mine" and not job.watching.folders:
        raise UsageError("--presets mine without --dev: there is nothing to mine them from", "add --dev DIR")
    if job.watching.patience and not job.watching.folders:
        raise UsageError("--patience without --dev: nothing is measured", "add --dev DIR, or leave --patience out")
    reading = read_rows(job.data, job.max_bad_rows)
    if job.plan.teacher and not any(row.positive_scores for row in reading.rows):
        raise UsageError(
            "--teacher-scores: no row has scores", "give rows with pos_scores and neg_scores, or leave the option out"
        )
    dev = DevSets.read(job.watching.folders, job.watching.queries)
    shared = dev.shared_with(reading.rows)
    if not job.watching.allow_shared:
        refuse_shared(shared)
    encoder = Encoder.load(job.model, revision=job.revision, device="cpu", precision="float32")
    limits = Limits(
        _limit("--query-tokens", job.query_tokens, encoder.spec.limit("query")),
        _limit("--passage-tokens", job.passage_tokens, encoder.spec.limit("passage")),
        job.drop_long,
    )
    prefixes = Prefixes(encoder.spec.query_prefix, encoder.spec.passage_prefix)
    examples = prepare(reading.rows, encoder.tokenizer, prefixes, limits)
    schedule = Schedule(examples, job.plan.batching, job.plan.seed)
    budget = _budget(job.amount, schedule)
    return Prepared(job, reading, dev, shared, encoder, limits, examples, schedule, budget)


def _limit(option: str, asked: int | None, most: int) -> int:
    if asked is not None and asked > most:
        raise UsageError(f"{option} {asked:,}: this model reads {most:,} tokens", f"give at most {most}")
    return asked or most


def _budget(amount: Amount, schedule: Schedule) -> Budget:
    """Steps and seconds; tokens and epochs are steps of a known schedule."""
    steps = [] if amount.steps is None else [amount.steps]
    if amount.tokens is not None:
        steps.append(schedule.steps_for(amount.tokens))
    if amount.epochs is not None:
        steps.append(max(1, round(amount.epochs * schedule.steps_per_epoch)))
    if not steps and amount.minutes is None:
        steps.append(schedule.steps_per_epoch)
    return Budget(min(steps, default=None), None if amount.minutes is None else amount.minutes * 60)
