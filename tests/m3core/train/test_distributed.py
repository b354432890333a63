"""Two real processes over gloo take the step that one process with the joint batch takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from m3core.errors import TrainingError
from m3core.train.distributed import ALONE, joined_group
from m3core.train.finetune import Plan
from m3core.train.schedule import Batching
from tests.m3core.train.gloo_worker import BATCHINGS
from tests.m3core.train.parts import assert_same, gradients, made_rows, made_run

_ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun_environment(rank: int, size: int, port: int) -> dict[str, str]:
    told = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**os.environ, **told, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tiny_model: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.m3core.train.gloo_worker", str(tiny_model), str(tmp_path)]
    workers = [
        subprocess.Popen(command, env=torchrun_environment(rank, 2, port), cwd=_ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for worker in workers:
        _, told = worker.communicate(timeout=600)
        assert worker.returncode == 0, told
    results = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert len(results[0]) == 3 * len(BATCHINGS)
    for name, first in results[0].items():
        mode = name.split("/")[0]
        plan = Plan(Batching(rows=8, negatives=2), teacher=True, seed=3)
        run = made_run(tiny_model, mode, plan, made_rows(16, scores=True), dtype=torch.float64)
        loss, expected = gradients(run)
        for found in (first, results[1][name]):
            assert float(found["loss"]) == pytest.approx(loss, rel=1e-9)
            assert_same({key: value for key, value in found.items() if key != "loss"}, expected, 1e-9)


def test_alone_nothing_is_changed() -> None:
    with joined_group({}) as group:
        assert group is ALONE
    assert ALONE.share([1, 2, 3]) == [1, 2, 3]
    assert ALONE.from_leader(2.0, 3.0) == (2.0, 3.0)


def test_processes_that_torchrun_did_not_start_are_told_so() -> None:
    with (
        pytest.raises(TrainingError, match=r"2 processes do not find each other .* start them by torchrun"),
        joined_group({"WORLD_SIZE": "2"}),
    ):
        pass
