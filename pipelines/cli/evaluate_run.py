"""The work behind `m3 eval`: read everything first, then encode, search, ask, compare, write."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from m3core.config.load import LoadedConfig
from m3core.errors import UsageError
from m3core.types import ALL_SIGNALS, Signal
from pipelines.cli.report import note
from pipelines.cli.search import caller
from pipelines.encode.progress import open_progress
from pipelines.encode.writing import check_file
from pipelines.evaluate.comparing import (
    Comparison,
    Saved,
    check_run,
    check_saved,
    compare_saved,
    compare_within,
    read_saved,
)
from pipelines.evaluate.dataset import Dataset, read_dataset
from pipelines.evaluate.document import Findings
from pipelines.evaluate.evaluation import Evaluation, Settings, evaluate, names_of_runs
from pipelines.evaluate.plot import plot
from pipelines.evaluate.plot import require as require_plot
from pipelines.evaluate.runs import GIVEN, fused, parse_weights
from pipelines.evaluate.tables import markdown
from pipelines.evaluate.through import Asking, Live, ask_live
from pipelines.evaluate.trec import check_ids, folder_of, trec_files
from pipelines.evaluate.writing import check_folder, new_file
from pipelines.query.request import parse_signals
from pipelines.query.router import SyncRouter

if TYPE_CHECKING:
    from m3core.encoder import Encoder
    from m3core.evaluate.presets import Mined

# What mined weights have to beat.
_PRESET = "balanced"
_TOLD_SECONDS = 10.0


@dataclass(frozen=True)
class Outputs:
    """Files that were asked for beside what is printed."""

    markdown: Path | None
    trec: Path | None
    plot: Path | None

    def check(self) -> None:
        """Raise UsageError, before any work, if one of them cannot be written."""
        for option, path in (("--markdown", self.markdown), ("--plot", self.plot)):
            if path is not None:
                check_file(option, path)
        if self.trec is not None:
            check_folder("--trec-dir", self.trec)
        if self.plot is not None:
            require_plot()

    def check_ids(self, datasets: Sequence[Dataset]) -> None:
        """Raise UsageError if an id does not fit into the files."""
        if self.trec is not None:
            for dataset in datasets:
                check_ids(dataset)


@dataclass(frozen=True)
class Named:
    """The model as the options name it."""

    model: str
    revision: str | None
    device: str
    precision: str
    long_pooling: str | None


@dataclass(frozen=True)
class Asked:
    """What the options say about the search, as they were typed."""

    signals: str
    weights: str | None
    depth: int
    seed: int
    mine: bool
    windows: bool
    compare: str | None


@dataclass(frozen=True)
class Job:
    """What is asked of every data set. `reference` is a run or, read from a file, the evaluations of another model."""

    settings: Settings
    reference: str | dict[str, Saved] | None
    live: LoadedConfig | None

    @classmethod
    def of(cls, asked: Asked, live: LoadedConfig | None) -> Job:
        """The options, checked. Raises UsageError."""
        chosen = parse_signals(asked.signals) if asked.signals else ALL_SIGNALS
        if live is not None:
            kept = {signal for store in live.config.stores.values() for signal in store.signals}
            chosen = tuple(signal for signal in ALL_SIGNALS if signal in kept)
        if asked.mine and chosen != ALL_SIGNALS:
            raise UsageError(f"--mine-weights with {', '.join(chosen)} alone", "it needs all three signals")
        if asked.windows and Signal.DENSE not in chosen:
            raise UsageError(f"--long-documents with {', '.join(chosen)} alone", "it compares dense vectors")
        weights = parse_weights(asked.weights) if asked.weights is not None else None
        settings = Settings(chosen, weights, asked.depth, asked.seed, keep=asked.mine, windows=asked.windows)
        if asked.compare is None or not Path(asked.compare).is_file():
            return cls(settings, asked.compare, live)
        return cls(settings, read_saved(Path(asked.compare)), live)


def read_datasets(folders: Sequence[Path], split: str | None, max_queries: int | None) -> list[Dataset]:
    """All data sets, before a model is loaded. Raises UsageError, also for two of one name."""
    datasets = [read_dataset(folder, split).first_queries(max_queries) for folder in folders]
    name, count = Counter(each.name for each in datasets).most_common(1)[0]
    if count > 1:
        raise UsageError(f"--data: {count} folders are called {name!r}", "give them names that tell them apart")
    return datasets


def load_encoder(named: Named, job: Job) -> Encoder:
    """The model that was named, or the live collection's."""
    from m3core.encoder import Encoder
    from m3core.zoo import resolve_model

    if job.live is None:
        return Encoder.load(
            named.model,
            revision=named.revision,
            signals=job.settings.signals,
            device=named.device,
            precision=named.precision,
            long_pooling=named.long_pooling,
        )
    section = job.live.config.model
    folder = resolve_model(section.name, section.revision, job.live.base)
    encoder = Encoder.load(folder, signals=job.settings.signals, **section.loading())
    return replace(encoder, spec=replace(encoder.spec, name=section.name))


def findings(encoder: Encoder, datasets: Sequence[Dataset], job: Job, identity: str | None) -> list[Findings]:
    """Everything about each data set. Raises what `evaluate`, the comparison and the live collection raise."""
    _check(encoder, datasets, job)
    return [_finding(encoder, dataset, job, identity) for dataset in datasets]


def _check(encoder: Encoder, datasets: Sequence[Dataset], job: Job) -> None:
    """Raise UsageError for what would only be found wrong after hours of encoding."""
    if job.settings.keep and max(len(each.queries) for each in datasets) < 2:
        raise UsageError("--mine-weights with one query: nothing is left to judge the weights by", "give more queries")
    if isinstance(job.reference, str):
        check_run(job.reference, names_of_runs(encoder.spec.presets, job.settings, live=job.live is not None))
    if isinstance(job.reference, dict):
        for dataset in datasets:
            if dataset.name not in job.reference:
                raise UsageError(
                    f"--compare: that file has no data set {dataset.name!r}, only {', '.join(job.reference)}",
                    "evaluate both models on the same data",
                )
            check_saved(dataset, job.reference[dataset.name])


def _finding(encoder: Encoder, dataset: Dataset, job: Job, identity: str | None) -> Findings:
    note(f"{dataset.name}: {len(dataset.queries):,} queries, {len(dataset.documents):,} documents")
    evaluation = evaluate(encoder, dataset, job.settings, partial(open_progress, sys.stderr))
    live = None
    if job.live is not None:
        evaluation, live = _ask(evaluation, job.live, identity)
    return Findings(evaluation, _comparisons(evaluation, job.reference), live)


def _comparisons(evaluation: Evaluation, reference: str | dict[str, Saved] | None) -> list[Comparison]:
    if reference is None:
        return []
    if isinstance(reference, str):
        return compare_within(evaluation, reference)
    return compare_saved(evaluation, reference[evaluation.dataset.name])


def _ask(evaluation: Evaluation, loaded: LoadedConfig, identity: str | None) -> tuple[Evaluation, Live]:
    settings, preset = evaluation.settings, loaded.config.search.preset
    exact = GIVEN if settings.weights is not None else fused(preset)
    if len(settings.signals) == 1:
        exact = settings.signals[0].value
    asking = Asking(
        collection=loaded.config.collection.name,
        identity=caller(identity, loaded.config),
        preset=None if settings.weights is not None else preset,
        weights=settings.weights,
        exact=exact,
    )
    with SyncRouter.open(loaded.config, loaded.base) as router:
        return ask_live(evaluation, router.search, asking, _telling(len(evaluation.dataset.queries)))


def _telling(total: int) -> Callable[[int], None]:
    """Says on stderr, every 10 seconds at most, how many questions were asked."""
    last = time.monotonic()

    def told(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _TOLD_SECONDS:
            last = time.monotonic()
            note(f"asked    {done:,}/{total:,} queries")

    return told


def mined_of(encoder: Encoder, found: Sequence[Findings], seed: int) -> Mined:
    """Weights mined over all data sets, against the model's preset."""
    from m3core.evaluate.presets import mine_weights

    note("looking for fusion weights")
    kept = [each.evaluation.kept for each in found]
    return mine_weights([each for each in kept if each is not None], encoder.spec.presets[_PRESET], seed)


def write_files(found: Sequence[Findings], mined: Mined | None, outputs: Outputs) -> None:
    """Markdown, picture and TREC files. Raises UsageError and DiskFullError."""
    if outputs.markdown is not None:
        with new_file(outputs.markdown) as file:
            file.write(markdown(found, mined).encode())
    if outputs.plot is not None:
        with new_file(outputs.plot) as file:
            plot([each.evaluation for each in found], file)
    if outputs.trec is not None:
        for each in found:
            folder = folder_of(outputs.trec, each.evaluation)
            folder.mkdir(parents=True, exist_ok=True)
            for name, lines in trec_files(each.evaluation):
                with new_file(folder / name) as file:
                    file.writelines(line.encode() for line in lines)
