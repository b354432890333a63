"""One run of any trainer: optimiser, rates over time, clipping, history, checkpoints, memory, the stop at what is no
number.

Whoever trains gives the parameters and a function that adds one step's gradient to them.
"""

from __future__ import annotations

import ctypes
import math
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from m3core.errors import TrainingError
from m3core.train.distributed import ALONE, Group
from m3core.train.parameters import Body, Parameters, Rates

_CLIP = 1.0
# A budget of minutes knows the length of no step; the first ones warm up as if this share were behind them.
_LEAST_SHARE = 1e-3
_TRIMMED_EVERY = 10


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many steps, so many seconds, or whichever comes first."""

    steps: int | None = None
    seconds: float | None = None

    def done(self, step: int, elapsed: float) -> bool:
        """Whether it is used up before this step."""
        return self.share(step, elapsed) >= 1

    def share(self, step: int, elapsed: float) -> float:
        """How much of it is used up, from 0 to 1 or beyond."""
        by_steps = 0.0 if self.steps is None else step / self.steps if self.steps else 1.0
        return max(by_steps, 0.0 if self.seconds is None else elapsed / self.seconds)

    def rate(self, step: int, elapsed: float, warmup: float) -> float:
        """Share of the peak learning rate: linear up over `warmup` of the run, linear down to its end."""
        if self.seconds is None and self.steps is not None:
            ramp = max(1, round(self.steps * warmup))
            rest = max(1, self.steps - ramp)
            return (step + 1) / ramp if step < ramp else (self.steps - step) / rest
        share = max(_LEAST_SHARE, self.share(step, elapsed))
        return share / warmup if share < warmup else (1 - share) / (1 - warmup)


@dataclass(frozen=True)
class Step:
    """What one step of learning gave: its loss, and the row that the history keeps."""

    loss: float
    row: Mapping[str, float]


class Learning(Protocol):
    """Told the number of the step and the share of the run behind it; adds the step's gradient to the parameters."""

    def __call__(self, step: int, share: float) -> Step: ...


@dataclass
class Loop:
    """The state of a run. `extra` is kept in checkpoints for whoever drives it: values that torch loads safely."""

    parameters: Parameters[Any]
    rates: Rates
    budget: Budget
    group: Group = ALONE
    clock: Callable[[], float] = time.monotonic
    step: int = 0
    elapsed: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = self.parameters.groups(self.rates)
        self._optimiser = torch.optim.AdamW(groups, weight_decay=self.rates.weight_decay)

    def run(
        self,
        learn: Learning,
        blame: Callable[[int], str],
        after: Callable[[], bool] = lambda: False,
    ) -> None:
        """Learn until the budget is used up or `after`, called behind every step, says that it is enough.

        Raises TrainingError, naming what `blame` says of the step, if a loss or gradient is not finite.
        """
        started = self.clock() - self.elapsed
        while not self.budget.done(self.step, self.elapsed):
            self._take(learn, blame)
            (self.elapsed,) = self.group.from_leader(self.clock() - started)
            if self.step % _TRIMMED_EVERY == 0:
                _give_memory_back()
            if after():
                break

    def _take(self, learn: Learning, blame: Callable[[int], str]) -> None:
        rate = self.budget.rate(self.step, self.elapsed, self.rates.warmup)
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        self._optimiser.zero_grad(set_to_none=True)
        done = learn(self.step, self.budget.share(self.step, self.elapsed))
        tensors = list(self.parameters.tensors().values())
        self.group.sum_gradients(tensors)
        norm = float(torch.nn.utils.clip_grad_norm_(tensors, _CLIP))
        for what, value in (("loss", done.loss), ("gradient's norm", norm)):
            if not math.isfinite(value):
                raise TrainingError(
                    f"step {self.step}: the {what} is {value} on {blame(self.step)}",
                    "lower the learning rates, or look at these texts",
                )
        self._optimiser.step()
        self.history.append({"step": self.step, **done.row})
        self.step += 1

    def save(self, path: Path) -> None:
        """Write a checkpoint: whole or not at all."""
        state = {
            "step": self.step,
            "elapsed": self.elapsed,
            "history": self.history,
            "extra": self.extra,
            "tensors": {name: tensor.detach() for name, tensor in self.parameters.tensors().items()},
            "optimiser": self._optimiser.state_dict(),
        }
        save_whole(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. Raises TrainingError if it is damaged or another run's."""
        state = load_whole(path)
        try:
            load_tensors(self.parameters, state["tensors"])
            self._optimiser.load_state_dict(state["optimiser"])
            self.step, self.history = state["step"], state["history"]
            self.elapsed, self.extra = state["elapsed"], state["extra"]
        except (KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(f"{path} is another run's checkpoint ({reason})", "remove its folder") from None


def _give_memory_back() -> None:
    """Free pages back to the system, where the C library is glibc.

    Tensors of ever other sizes leave holes in its heap: a run of 600 steps grew from 5 to 17 GB. Blocks from the system
    for every tensor (mallopt) have no holes, and made a step 1.4 times as long: each page is filled with zeros anew.
    """
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)


def load_tensors(parameters: Parameters[Body], tensors: Mapping[str, Tensor]) -> None:
    """Overwrite what is trained. KeyError or RuntimeError if the tensors are others'."""
    with torch.no_grad():
        for name, tensor in parameters.tensors().items():
            tensor.copy_(tensors[name])


def save_whole(value: object, path: Path) -> None:
    """torch.save under a temporary name, synced, then renamed: a kill at any moment leaves the old file or the new."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_whole(path: Path) -> dict[str, Any]:
    """What `save_whole` wrote. Raises TrainingError if it is damaged."""
    try:
        value = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"{path} is damaged ({reason})", "remove its folder and run it again") from None
    if not isinstance(value, dict):
        raise TrainingError(f"{path} is damaged (no checkpoint)", "remove its folder and run it again")
    return value
