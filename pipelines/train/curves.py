"""The losses of a run as a table (CSV) and as a picture, a line per signal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from m3core.errors import MissingExtraError
from m3core.types import Float64Array

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = {"dense": "#0072B2", "lexical": "#E69F00", "multi": "#009E73", "sum": "#D55E00"}
_DPI = 160
# A point is the mean of so large a share of the run: single batches differ too much to read.
_SMOOTHED = 0.05


def check_plot() -> None:
    """Raise MissingExtraError without matplotlib: before the hours of training, not after."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "the plot of the losses needs matplotlib", "pip install 'threefold[train]', or add --no-plot"
        )


def write_csv(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """A row per step: step, rows, tokens, loss and its terms."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow({name: int(value) if float(value).is_integer() else value for name, value in row.items()})


def write_plot(history: Sequence[Mapping[str, float]], measured: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Losses over the steps, smoothed; under them the dev figure, if there is one. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 2 if measured else 1
    figure = Figure(figsize=(7, 2.6 * panels + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, squeeze=False, sharex=True)[:, 0]
    steps = np.array([row["step"] for row in history])
    for name, colour in _COLOURS.items():
        if name in history[0]:
            values = np.array([row[name] for row in history], dtype=np.float64)
            axes[0].plot(steps, smoothed(values), color=colour, label=name, linewidth=1.6)
    axes[0].set_ylabel("InfoNCE")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False, ncols=4)
    if measured:
        axes[1].plot([row["step"] for row in measured], [row["main"] for row in measured], "o-", color="#5F5F5F")
        axes[1].set_ylabel("dev nDCG@10, fused")
    axes[-1].set_xlabel("step")
    for each in axes:
        each.grid(axis="y", color="#DDDDDD", linewidth=0.7)
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
    figure.savefig(path, format="png", dpi=_DPI)


def smoothed(values: Float64Array) -> Float64Array:
    """Means over the last twentieth of the run at each step, `[N]`; fewer at the start."""
    width = max(1, round(len(values) * _SMOOTHED))
    sums = np.concatenate([np.zeros(1), np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    means: Float64Array = (sums[ends] - sums[starts]) / (ends - starts)
    return means
