"""Dev figures on the way: which step was best so far, and when it has not got better for long enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3core.train.loop import Loop, load_tensors, load_whole, save_whole

# nDCG@10 by set, then by signal or `fused`.
Figures = Mapping[str, Mapping[str, float]]
MAIN = "fused"


def main_figure(figures: Figures) -> float:
    """The mean of the sums' figures: what early stopping looks at."""
    return float(np.mean([part[MAIN] for part in figures.values()]))


@dataclass
class Watch:
    """Measures every `every` steps, keeps the best step's parameters at `best`, and stops after `patience` measurements
    without a better one (0: never). Its state lives in the loop's `extra`, so that checkpoints hold it.

    `measure` gives the figures of the moment; only the leading process has one, and `best` is the same file for all.
    """

    loop: Loop
    measure: Callable[[], Figures]
    best: Path
    every: int
    patience: int

    def start(self) -> bool:
        """Measure before the first step; False if that was done before."""
        if self.measured:
            return False
        self._measure()
        return True

    @property
    def measured(self) -> list[dict[str, Any]]:
        """Each measurement: `step`, `figures`, and `main`, the one that counts."""
        measured: list[dict[str, Any]] = self.loop.extra.setdefault("dev", [])
        return measured

    def due(self) -> bool:
        """Whether the step just taken is one to measure at; the last one is."""
        loop = self.loop
        last = loop.budget.done(loop.step, loop.elapsed)
        seen = bool(self.measured) and self.measured[-1]["step"] == loop.step
        return not seen and (last or loop.step % self.every == 0)

    def look(self) -> bool:
        """Measure; True if it is enough."""
        self._measure()
        return self.exhausted()

    def exhausted(self) -> bool:
        """Whether the patience is at its end."""
        since = len(self.measured) - 1 - self.best_place()
        return bool(self.patience) and since >= self.patience

    def best_place(self) -> int:
        """Which measurement was best; the first of equals."""
        return int(np.argmax([row["main"] for row in self.measured]))

    def take_best(self) -> int:
        """Put the best step's parameters back; returns the step."""
        row = self.measured[self.best_place()]
        if row["step"] != self.loop.step:
            load_tensors(self.loop.parameters, load_whole(self.best)["tensors"])
        return int(row["step"])

    def _measure(self) -> None:
        figures = self.measure() if self.loop.group.leads else {}
        (main,) = self.loop.group.from_leader(main_figure(figures) if figures else 0.0)
        self.measured.append({"step": self.loop.step, "figures": figures, "main": main})
        if self.loop.group.leads and self.best_place() == len(self.measured) - 1:
            tensors = {name: tensor.detach() for name, tensor in self.loop.parameters.tensors().items()}
            save_whole({"tensors": tensors}, self.best)
