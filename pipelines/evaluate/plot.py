"""A picture of an evaluation: a panel per measure, or per data set where there are several; in it a dot per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from m3core.errors import MissingExtraError
from m3core.evaluate.measures import MEASURES
from m3core.terminal import plain
from pipelines.evaluate.evaluation import Evaluation
from pipelines.evaluate.tables import HEADINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_COLUMNS = 3
_PANEL_WIDTH, _ROW_HEIGHT, _PANEL_MARGIN = 3.4, 0.3, 1.0
_DPI = 160
# Of an axis, where all figures are the same.
_LEAST_SPAN = 0.02
# Okabe and Ito's colours, which colour-blind readers tell apart: single signals, fused, baselines.
_SINGLE, _FUSED, _BASELINE = "#0072B2", "#D55E00", "#5F5F5F"


@dataclass(frozen=True)
class _Panel:
    title: str
    runs: tuple[str, ...]
    means: tuple[float, ...]
    bounds: tuple[tuple[float, float], ...]


def require() -> None:
    """Raise MissingExtraError without matplotlib: worth knowing before a corpus is encoded."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("--plot needs matplotlib", "pip install 'threefold[eval]'") from None


def plot(evaluations: Sequence[Evaluation], target: BinaryIO) -> None:
    """Write a PNG. Raises MissingExtraError without matplotlib."""
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(evaluations)
    columns = min(_MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    most = max(len(panel.runs) for panel in panels)
    height = rows * (most * _ROW_HEIGHT + _PANEL_MARGIN) + 0.7
    figure = Figure(figsize=(1.6 + columns * _PANEL_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place < len(panels):
            _draw(axes, panels[place])
        else:
            axes.set_visible(False)
    figure.suptitle(plain(_title(evaluations)), fontsize=11, x=0.01, ha="left", parse_math=False)
    figure.savefig(target, format="png", dpi=_DPI)


def _panels(evaluations: Sequence[Evaluation]) -> list[_Panel]:
    if len(evaluations) == 1:
        return [_panel(evaluations[0], column, HEADINGS[name]) for column, name in enumerate(MEASURES)]
    common = [run for run in evaluations[0].runs if all(run in each.runs for each in evaluations)]
    return [_panel(each, 0, each.dataset.name, common) for each in evaluations]


def _panel(evaluation: Evaluation, column: int, title: str, runs: Sequence[str] | None = None) -> _Panel:
    names = tuple(runs or evaluation.runs)
    return _Panel(
        title,
        names,
        tuple(float(evaluation.runs[name].values[:, column].mean()) for name in names),
        tuple((float(low), float(high)) for low, high in (evaluation.intervals[name][column] for name in names)),
    )


def _draw(axes: Axes, panel: _Panel) -> None:
    shown = [f"{mean:.3f}" for mean in panel.means]
    best = max(shown) if len(set(shown)) > 1 else None
    for place, (run, mean, (low, high)) in enumerate(zip(panel.runs, panel.means, panel.bounds, strict=True)):
        colour = _colour(run)
        axes.hlines(place, low, high, color=colour, linewidth=2.2, alpha=0.45)
        axes.plot(mean, place, "o", color=colour, markersize=5.5)
        # At the right edge, under one another: no label can hide a dot.
        axes.annotate(
            shown[place],
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            fontweight="bold" if shown[place] == best else "normal",
            color=colour,
        )
    # Names come from folders and models: no mathematics is read into them.
    axes.set_title(plain(panel.title), fontsize=10, loc="left", parse_math=False)
    axes.set_yticks(range(len(panel.runs)), [plain(run) for run in panel.runs], fontsize=8.5, parse_math=False)
    axes.set_ylim(len(panel.runs) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    lowest, highest = min(low for low, _ in panel.bounds), max(high for _, high in panel.bounds)
    margin = max(0.06 * (highest - lowest), _LEAST_SPAN / 2)
    axes.set_xlim(lowest - margin, min(highest + margin, 1 + _LEAST_SPAN / 5))


def _colour(run: str) -> str:
    if run in ("bm25", "rrf"):
        return _BASELINE
    return _FUSED if run.startswith("fused:") or run == "through" else _SINGLE


def _title(evaluations: Sequence[Evaluation]) -> str:
    model = evaluations[0].model
    if len(evaluations) > 1:
        return f"{model}: nDCG@10 and 95 % intervals"
    dataset = evaluations[0].dataset
    return f"{model} on {dataset.name}: {len(dataset.queries):,} queries, 95 % intervals"
