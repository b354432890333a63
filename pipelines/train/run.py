"""One `m3 train` from files to a model folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from m3core.checkpoint import read_spec
from m3core.encoder import Encoder
from m3core.evaluate.presets import best_weights
from m3core.fingerprint import encoder_fingerprint
from m3core.fusion import Weights
from m3core.precision import Precision, choose_execution
from m3core.train.distributed import Group, joined_group
from m3core.train.export import new_model
from m3core.train.finetune import Finetune, Plan
from m3core.train.modes import parameters_of
from m3core.train.watch import Watch
from pipelines.ingest.stop import StopFlag, stopping_on_signals
from pipelines.state.files import write_atomic
from pipelines.train.card import Facts, card
from pipelines.train.curves import write_csv, write_plot
from pipelines.train.job import key_of
from pipelines.train.places import Place, held_place, place_of
from pipelines.train.prepared import Prepared
from pipelines.train.progress import Progress, Silent, open_progress

if TYPE_CHECKING:
    from m3core.train.parameters import Parameters

BALANCED = "balanced"
_MEASUREMENTS = 10
_LOSSES = 50


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `signal` is what stopped it before its end; then nothing was written."""

    signal: str | None
    steps: int
    tokens: int
    seconds: float
    best_step: int
    losses: Mapping[str, float]
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]
    fingerprint: str | None
    place: Place


def train(prepared: Prepared, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Outcome | None:
    """Train and write the model; goes on where the same job was stopped. None in a process that does not lead.

    Raises TrainingError if a loss is not finite, LockedError while another process trains the same job.
    """
    job = prepared.job
    with joined_group(environ) as group, ExitStack() as stack:
        identity = job.identity(
            prepared.encoder.fingerprint,
            prepared.reading.files,
            [each.coverage.digest for each in prepared.dev.sets],
            prepared.limits,
        )
        place = place_of(key_of(identity))
        if group.leads:
            stack.enter_context(held_place(place, identity))
        progress = open_progress(stream, prepared.budget.steps) if group.leads else Silent()
        stack.callback(progress.close)
        stop = StopFlag()
        stack.enter_context(stopping_on_signals(stop))
        plan = replace(job.plan, budget=prepared.budget, precision=_precision(job.precision, place, group))
        running = _Running(prepared, plan, group, place, progress, stop)
        running.go()
        if not group.leads:
            return None
        outcome = running.stopped() if running.interrupted else running.finish()
    if outcome.signal is None:
        place.clear()
    return outcome


def _precision(asked: str, place: Place, group: Group) -> Precision:
    """What the blocks compute in: the leading process's choice, kept for when the run goes on."""
    chosen: Precision = "float32"
    if group.leads:
        if not place.precision.is_file():
            write_atomic(place.precision, choose_execution("cpu", asked).precision.encode())
        chosen = "bfloat16" if place.precision.read_text(encoding="ascii") == "bfloat16" else "float32"
    (short,) = group.from_leader(float(chosen == "bfloat16"))
    return "bfloat16" if short else "float32"


class _Running:
    """The state of one run in one process."""

    def __init__(
        self, prepared: Prepared, plan: Plan, group: Group, place: Place, progress: Progress, stop: StopFlag
    ) -> None:
        self._prepared, self._job = prepared, prepared.job
        self._group, self._place, self._progress, self._stop = group, place, progress, stop
        job = prepared.job
        parameters: Parameters[Any] = parameters_of(prepared.encoder, job.mode, job.lora, job.plan.seed)
        self._run = Finetune(prepared.encoder, parameters, prepared.examples, plan, group, prepared.schedule)
        self._saved = time.monotonic()
        self._weights = prepared.encoder.spec.presets[BALANCED]
        self.interrupted = False
        steps = prepared.budget.steps or prepared.schedule.steps_per_epoch
        every = job.watching.every or max(1, -(-steps // _MEASUREMENTS))
        self._watch = (
            Watch(self._run.loop, self._measure, place.best, every, job.watching.patience) if prepared.dev else None
        )

    def go(self) -> None:
        """Train until the budget, the patience or a signal ends it."""
        loop = self._run.loop
        # All read the same file: nobody writes a new one before a step, and a step needs all.
        found = bool(self._group.from_leader(float(self._place.checkpoint.is_file()))[0])
        if found:
            loop.resume(self._place.checkpoint)
            self._progress.note(f"resumed at step {loop.step:,} ({self._place.folder})")
        if self._watch is not None and self._watch.start():
            self._say_figures(self._watch.measured[-1]["figures"])
        if not (found and self._enough()):
            loop.run(self._run.learn, self._blame, self._after)
        if not self.interrupted:
            # The model is about to be written: if that fails, nothing is trained twice.
            self._save()

    def _enough(self) -> bool:
        return self._watch is not None and self._watch.exhausted()

    def _blame(self, step: int) -> str:
        return self._run.blame(step, self._place.not_finite)

    def _after(self) -> bool:
        loop = self._run.loop
        self._progress.stepped(loop.step, loop.budget.share(loop.step, loop.elapsed), loop.history[-1])
        enough = False
        if self._watch is not None and self._watch.due():
            enough = self._watch.look()
            self._say_figures(self._watch.measured[-1]["figures"])
            if enough:
                self._progress.note(f"no better for {self._job.watching.patience} measurements: enough")
            # The best step's file and the checkpoint that names it stay together.
            self._saved = -math.inf
        due = time.monotonic() - self._saved >= self._job.checkpoint_seconds
        told, save = self._group.from_leader(float(bool(self._stop)), float(due))
        self.interrupted = bool(told) and not enough
        if save or self.interrupted:
            self._save()
        return enough or self.interrupted

    def _save(self) -> None:
        if self._group.leads:
            self._run.loop.save(self._place.checkpoint)
        self._saved = time.monotonic()

    def _measure(self) -> dict[str, dict[str, float]]:
        return self._prepared.dev.figures(self._run.trained(), self._weights)

    def _say_figures(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        for name, values in figures.items():
            text = " ".join(f"{run} {value:.3f}" for run, value in values.items())
            self._progress.note(f"dev      step {self._run.loop.step:,} {name}: {text}")

    def stopped(self) -> Outcome:
        """A signal came; the checkpoint is written."""
        self._progress.note(f"stopped by {self._stop.signal} at step {self._run.loop.step:,}; the same command goes on")
        return self._outcome(self._run.loop.step, {}, self._stop.signal, None)

    def finish(self) -> Outcome:
        """Write the model: the best measured step, or the last one."""
        loop = self._run.loop
        best = self._watch.take_best() if self._watch is not None else loop.step
        encoder = self._run.trained()
        after, presets = self._final(encoder, best)
        with new_model(encoder, self._job.out, presets) as folder:
            write_csv(loop.history, folder / "losses.csv")
            if self._job.plot:
                write_plot(loop.history, loop.extra.get("dev", []), folder / "losses.png")
            (folder / "README.md").write_text(card(self._facts(best, after, presets)), encoding="utf-8")
        return self._outcome(best, after, None, encoder_fingerprint(read_spec(self._job.out)))

    def _final(self, encoder: Encoder, best: int) -> tuple[dict[str, dict[str, float]], dict[str, Weights] | None]:
        """Figures of what is written, and the preset that they suggest if that was asked for."""
        if self._watch is None:
            return {}, None
        if self._job.presets == "keep":
            row = next(row for row in self._watch.measured if row["step"] == best)
            return row["figures"], None
        scored = self._prepared.dev.scored(encoder)
        weights = best_weights(scored)
        figures = {name: part.ndcg(weights) for name, part in zip(self._prepared.dev.names, scored, strict=True)}
        return figures, {BALANCED: weights}

    def _facts(
        self, best: int, after: Mapping[str, Mapping[str, float]], presets: Mapping[str, Weights] | None
    ) -> Facts:
        prepared, loop = self._prepared, self._run.loop
        return Facts(
            spec=prepared.encoder.spec,
            # Of a folder only its name: where it lies on the machine is nobody's business.
            start=Path(self._job.model).name,
            start_fingerprint=prepared.encoder.fingerprint,
            mode=self._job.mode,
            files=prepared.reading.files,
            seed=self._job.plan.seed,
            command=self._job.command,
            steps=loop.step,
            tokens=self._tokens(),
            best_step=best,
            before=self._watch.measured[0]["figures"] if self._watch is not None else {},
            after=after,
            dev_queries=self._job.watching.queries,
            shared=len(prepared.shared),
            presets={name: tuple(asdict(weights).values()) for name, weights in (presets or {}).items()},
        )

    def _tokens(self) -> int:
        return int(sum(row["tokens"] for row in self._run.loop.history))

    def _outcome(
        self, best: int, after: Mapping[str, Mapping[str, float]], signal: str | None, fingerprint: str | None
    ) -> Outcome:
        loop = self._run.loop
        last = loop.history[-_LOSSES:]
        names = [name for name in ("loss", "dense", "lexical", "multi", "sum") if last and name in last[0]]
        return Outcome(
            signal=signal,
            steps=loop.step,
            tokens=self._tokens(),
            seconds=loop.elapsed,
            best_step=best,
            losses={name: sum(row[name] for row in last) / len(last) for name in names},
            before=self._watch.measured[0]["figures"] if self._watch is not None else {},
            after=after,
            fingerprint=fingerprint,
            place=self._place,
        )
