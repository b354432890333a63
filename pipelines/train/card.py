"""The model card of a trained model: what it came from, how, what it measures, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.train.rows import DataFile

if TYPE_CHECKING:
    from m3core.checkpoint import ModelSpec

Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Facts:
    """All that a card says. `before` and `after` are nDCG@10 by set and run; `best_step` is the step that was kept."""

    spec: ModelSpec
    start: str
    start_fingerprint: str
    mode: str
    files: Sequence[DataFile]
    seed: int
    command: str
    steps: int
    tokens: int
    best_step: int
    before: Figures
    after: Figures
    dev_queries: int
    shared: int
    presets: Mapping[str, Sequence[float]]


def card(facts: Facts) -> str:
    """The README.md of a model folder."""
    return "\n".join([*_origin(facts), *_data(facts), *_figures(facts), *_loading(facts.spec)]) + "\n"


def _origin(facts: Facts) -> list[str]:
    kept = f"; the weights are those of step {facts.best_step:,}" if facts.best_step != facts.steps else ""
    weights = [
        f"Weights of the sum (dense, lexical, multi), preset `{name}`: {', '.join(f'{value:g}' for value in values)}."
        for name, values in facts.presets.items()
    ]
    return [
        f"# {facts.start}, trained further",
        "",
        f"Trained by threefold from `{facts.start}` (fingerprint `{facts.start_fingerprint}`): mode `{facts.mode}`, "
        f"seed {facts.seed}, {facts.steps:,} steps, {facts.tokens:,} tokens{kept}. "
        "Joint InfoNCE of the dense, lexical and multi-vector signals and of their sum, distilled from the sum "
        "(M3-Embedding, arXiv:2402.03216). Losses by step: `losses.csv`.",
        "",
        "```",
        facts.command,
        "```",
        "",
        *weights,
        *([""] if weights else []),
    ]


def _data(facts: Facts) -> list[str]:
    rows = [f"| {each.name} | {each.rows:,} | `{each.sha256}` |" for each in facts.files]
    return ["| data | rows used | sha256 |", "|---|---:|---|", *rows, ""]


def _figures(facts: Facts) -> list[str]:
    if not facts.after:
        return ["No dev set was given: nothing is known of how good it is.", ""]
    runs = list(next(iter(facts.after.values())))
    lines = [
        f"nDCG@10 on the first {facts.dev_queries:,} queries of each set, before -> after:",
        "",
        f"| set | {' | '.join(runs)} |",
        "|---|" + "---:|" * len(runs),
    ]
    for name, after in facts.after.items():
        cells = [f"{facts.before[name][run]:.3f} -> {after[run]:.3f}" for run in runs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if facts.shared:
        lines += ["", f"{facts.shared:,} texts of these sets were in the training data: the figures flatter."]
    return [*lines, ""]


def _loading(spec: ModelSpec) -> list[str]:
    prefixes = []
    if spec.query_prefix or spec.passage_prefix:
        prefixes = [
            "# Its encode() adds no prefix: put these before the texts.",
            f"query, passage = {spec.query_prefix!r}, {spec.passage_prefix!r}",
        ]
    return [
        "Loading it, with threefold and with FlagEmbedding (1.4):",
        "",
        "```python",
        'Encoder.load("FOLDER")',
        flag_line(spec),
        *prefixes,
        "```",
    ]


def flag_line(spec: ModelSpec) -> str:
    """The call that loads the folder in FlagEmbedding: it reads neither the pooling nor a width of its own."""
    width = "" if spec.multi_dim == spec.dense_dim else f", colbert_dim={spec.multi_dim}"
    pooling = "" if spec.pooling == "cls" else f', pooling_method="{spec.pooling}"'
    return f'BGEM3FlagModel("FOLDER", use_fp16=False{pooling}{width})'
