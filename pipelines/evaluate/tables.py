"""What an evaluation says to people: tables for a terminal and for Markdown, and the sentences below them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from m3core.evaluate.measures import MAIN_MEASURE, MEASURES
from m3core.evaluate.presets import Mined
from m3core.evaluate.resampling import Difference
from m3core.terminal import plain
from pipelines.encode.run import Counts
from pipelines.evaluate.comparing import Comparison
from pipelines.evaluate.document import Findings
from pipelines.evaluate.evaluation import Evaluation, means
from pipelines.evaluate.through import Live

HEADINGS: Mapping[str, str] = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@100": "Recall@100",
    "success@1": "Success@1",
    "map": "MAP",
}
INTERVAL = "95 % of nDCG@10"
# Languages with more queries come first; no more than so many are shown.
_LANGUAGES = 20


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; `best` holds (row, column) of what is highest in its column."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()


def tables(findings: Sequence[Findings]) -> list[Table]:
    """One table of figures per data set, one per language where there are several, and the mean of several sets."""
    shown = []
    for each in findings:
        shown.append(_figures(each.evaluation))
        if len(set(each.evaluation.dataset.languages)) > 1:
            shown.append(_languages(each.evaluation))
        if each.comparisons:
            shown.append(_comparisons(each.comparisons))
    if len(findings) > 1:
        shown.append(_means([each.evaluation for each in findings]))
    return shown


def sentences(findings: Sequence[Findings], mined: Mined | None) -> list[str]:
    """What the tables do not say: what was cut, what was wrong, what the stores lose, which weights to take."""
    several = len(findings) > 1
    lines = []
    for each in findings:
        label = f"{plain(each.name)}: " if several else ""
        lines += [label + line for line in _about(each)]
    if mined is not None:
        lines += _mined(mined)
    return lines


def _figures(evaluation: Evaluation) -> Table:
    dataset = evaluation.dataset
    languages = sorted({language or "none" for language in dataset.languages})
    spoken = languages[0] if len(languages) == 1 else f"{len(languages)} languages"
    title = f"{dataset.name} · {evaluation.model} · {len(dataset.queries):,} queries ({spoken}) · "
    title += f"{len(dataset.documents):,} documents"
    values = [[run.means[name] for name in MEASURES] for run in evaluation.runs.values()]
    bounds = [evaluation.intervals[name][0].tolist() for name in evaluation.runs]
    rows = tuple(
        (name, *(f"{value:.3f}" for value in row), f"{low:.3f}–{high:.3f}")
        for name, row, (low, high) in zip(evaluation.runs, values, bounds, strict=True)
    )
    return Table(title, ("run", *HEADINGS.values(), INTERVAL), rows, _best(values))


def _languages(evaluation: Evaluation) -> Table:
    counts = {language: len(evaluation.rows(language)) for language in sorted(set(evaluation.dataset.languages))}
    order = sorted(counts, key=lambda language: (-counts[language], language))[:_LANGUAGES]
    names = tuple(name for name in evaluation.runs if not name.startswith("fused:") or name == _main(evaluation))
    rows = tuple(
        (
            language or "none",
            f"{counts[language]:,}",
            *(f"{evaluation.runs[name].values[evaluation.rows(language), 0].mean():.3f}" for name in names),
        )
        for language in order
    )
    return Table(f"{evaluation.dataset.name} · nDCG@10 by language", ("language", "queries", *names), rows)


def _main(evaluation: Evaluation) -> str:
    """The fused run that stands for all of them where there is no room."""
    return "fused:given" if "fused:given" in evaluation.runs else "fused:balanced"


def _comparisons(comparisons: Sequence[Comparison]) -> Table:
    rows = tuple(
        (each.run, each.reference, f"{each.queries:,}", _signed(each.main), f"{each.main.p:.4f}", _verdict(each.main))
        for each in comparisons
    )
    return Table("difference in nDCG@10", ("run", "against", "queries", "difference", "p", ""), rows)


def _verdict(difference: Difference) -> str:
    if not difference.beyond_noise:
        return "within noise"
    return "better" if difference.mean > 0 else "worse"


def _signed(difference: Difference) -> str:
    return f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _means(evaluations: Sequence[Evaluation]) -> Table:
    average = means(evaluations)
    values = [[figures[name] for name in MEASURES] for figures in average.values()]
    rows = tuple((name, *(f"{value:.3f}" for value in row)) for name, row in zip(average, values, strict=True))
    title = f"mean of {len(evaluations)} data sets, each weighing the same"
    return Table(title, ("run", *HEADINGS.values()), rows, _best(values))


def _best(values: Sequence[Sequence[float]]) -> frozenset[tuple[int, int]]:
    """Where the highest figure of each column stands; the first column of a table is the run's name."""
    highest = [max(column) for column in zip(*values, strict=True)]
    return frozenset(
        (row, column + 1)
        for row, figures in enumerate(values)
        for column, value in enumerate(figures)
        if f"{value:.3f}" == f"{highest[column]:.3f}"
    )


def _about(findings: Findings) -> Iterator[str]:
    evaluation = findings.evaluation
    for name, counts in (("queries", evaluation.queries), ("documents", evaluation.documents)):
        if counts.truncated:
            yield _cut(name, counts)
    yield from map(plain, evaluation.dataset.problems.lines())
    if findings.live is not None:
        yield from _live(findings.live)


def _cut(name: str, counts: Counts) -> str:
    share = counts.truncated / counts.texts
    return f"{counts.truncated:,} of {counts.texts:,} {name} ({share:.1%}) were cut at {counts.limit:,} tokens"


def _live(live: Live) -> Iterator[str]:
    loss = live.loss[MAIN_MEASURE]
    yield (
        f"{live.collection} generation {live.generation} against exact {live.exact}: overlap@10 {live.overlap:.3f}, "
        f"nDCG@10 {_signed(loss)}, p {loss.p:.4f}; {live.milliseconds:,.0f} ms per query"
    )
    for count, what in (
        (live.degraded, "answers were degraded: a store did not answer"),
        (live.refused, "queries were refused and count as not answered"),
        (live.outside, "hits are documents that the corpus does not have"),
        (live.chunked, "of the first ten hits have several chunks, which exact search reads as one text"),
    ):
        if count:
            yield f"{count:,} {what}"


def _mined(mined: Mined) -> list[str]:
    weights = {"dense": mined.weights.dense, "lexical": mined.weights.lexical, "multi": mined.weights.multi}
    spelled = ", ".join(f"{name} {value:g}" for name, value in weights.items())
    better = mined.gain.beyond_noise and mined.gain.mean > 0
    line = (
        f"mined weights: {spelled}; on held-out queries nDCG@10 {mined.held_out:.3f}, balanced {mined.preset:.3f}: "
        f"{_signed(mined.gain)}, p {mined.gain.p:.4f}"
    )
    if not better:
        return [line, "no better than the preset beyond noise: keep the preset"]
    values = ", ".join(f'"{name}": {value:g}' for name, value in weights.items())
    return [
        line,
        "that is beyond noise. To use them, in the model's m3.json and in m3.toml:",
        f'  "presets": {{"mined": {{{values}}}}}',
        "  [search]",
        '  preset = "mined"',
    ]


def markdown(findings: Sequence[Findings], mined: Mined | None) -> str:
    """The same as Markdown; the highest figures are bold."""
    lines = ["# Evaluation", ""]
    for table in tables(findings):
        lines += [f"## {_cell(table.title)}", "", _row(table.header), _row(["---"] * len(table.header))]
        for number, row in enumerate(table.rows):
            cells = [f"**{cell}**" if (number, column) in table.best else cell for column, cell in enumerate(row)]
            lines.append(_row(cells))
        lines.append("")
    said = sentences(findings, mined)
    lines += [f"- {_cell(line)}" if not line.startswith("  ") else f"      {line.strip()}" for line in said]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|")
