"""Budgets, rates, clipping, and checkpoints that are whole or not there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from m3core.errors import TrainingError
from m3core.heads import Linear
from m3core.train.adapter import Adapter
from m3core.train.loop import Budget, Loop, Step, load_whole, save_whole
from m3core.train.parameters import Parameters, Rates


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _parameters(scale: float = 1.0) -> Parameters[Adapter]:
    heads = [Linear(torch.full((1, 2), scale, requires_grad=True), torch.zeros(1, requires_grad=True)) for _ in "ab"]
    return Parameters(Adapter(0, 1.0, {}), *heads)


def _learn(parameters: Parameters[Adapter], loss: float = 1.0):  # type: ignore[no-untyped-def]
    def learn(step: int, share: float) -> Step:
        value = (parameters.sparse.weight.square().sum() + parameters.multi.weight.sum()) * loss
        value.backward()
        return Step(float(value.detach()), {"share": share})

    return learn


def test_rates_go_up_over_the_warm_up_and_down_to_nothing() -> None:
    budget = Budget(steps=100)
    rates = [budget.rate(step, 0.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([(100 - i) / 90 for i in range(10, 100)])
    timed = Budget(seconds=100.0)
    assert timed.rate(3, 5.0, 0.1) == pytest.approx(0.5)
    assert timed.rate(3, 55.0, 0.1) == pytest.approx(0.5)
    assert timed.rate(0, 0.0, 0.1) > 0
    both = Budget(steps=10, seconds=100.0)
    assert both.share(5, 20.0) == 0.5
    assert both.share(1, 20.0) == 0.2
    assert both.done(3, 100.0)
    assert both.done(10, 1.0)
    assert not both.done(9, 99.0)


def test_a_budget_of_seconds_ends_a_run_and_counts_over_a_resume(tmp_path: Path) -> None:
    clock, parameters = Clock(), _parameters()
    learn = _learn(parameters)

    def slow(step: int, share: float) -> Step:
        clock.now += 4.0
        return learn(step, share)

    loop = Loop(parameters, Rates(), Budget(seconds=20.0), clock=clock)
    loop.run(slow, str, lambda: loop.step == 2)
    loop.save(tmp_path / "c.pt")
    other = _parameters(5.0)
    later = Clock()
    later.now = 9_000.0
    resumed = Loop(other, Rates(), Budget(seconds=20.0), clock=later)
    resumed.resume(tmp_path / "c.pt")
    learn, clock = _learn(other), later
    resumed.run(slow, str)
    assert resumed.step == 5
    assert [row["share"] for row in resumed.history] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_what_is_not_finite_stops_before_the_parameters_move(loss: float) -> None:
    parameters = _parameters()
    loop = Loop(parameters, Rates(), Budget(steps=5))
    with pytest.raises(TrainingError, match=r"step 0: the loss is (nan|inf) on rows of step 0"):
        loop.run(_learn(parameters, loss), lambda step: f"rows of step {step}")
    assert parameters.sparse.weight.tolist() == [[1.0, 1.0]]

    def sneaky(step: int, share: float) -> Step:
        parameters.sparse.weight.grad = torch.full((1, 2), math.nan)
        return Step(1.0, {})

    with pytest.raises(TrainingError, match="gradient's norm is nan"):
        loop.run(sneaky, str)
    assert parameters.sparse.weight.tolist() == [[1.0, 1.0]]


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    parameters = _parameters()
    loop = Loop(parameters, Rates(), Budget(steps=2))
    loop.run(_learn(parameters), str)
    loop.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="is damaged"):
        loop.resume(path)
    save_whole({"tensors": {}}, path)
    with pytest.raises(TrainingError, match="another run's checkpoint"):
        loop.resume(path)
    save_whole([1], path)
    with pytest.raises(TrainingError, match="no checkpoint"):
        load_whole(path)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_whole({"a": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_whole({"a": lambda: None}, path)
    assert load_whole(path) == {"a": 1}
