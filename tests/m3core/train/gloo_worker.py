"""One of several processes: takes the gradient of one step with the others and saves what it got.

Started by test_distributed with torchrun's variables in the environment: MODEL, MODE, OUT as arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from m3core.train.distributed import joined_group
from m3core.train.finetune import Plan
from m3core.train.schedule import Batching
from tests.m3core.train.parts import gradients, made_rows, made_run

# Three parts for two processes: their shares differ. One part for two: one of them has nothing.
BATCHINGS = {"three": 400, "one": 1 << 20}


def main() -> None:
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    results = {}
    with joined_group() as group:
        for mode in ("heads", "lora", "full"):
            for name, part_tokens in BATCHINGS.items():
                plan = Plan(Batching(rows=8, negatives=2, part_tokens=part_tokens), teacher=True, seed=3)
                run = made_run(model, mode, plan, made_rows(16, scores=True), dtype=torch.float64, group=group)  # type: ignore[arg-type]
                loss, _ = gradients(run)
                group.sum_gradients(run.parameters.tensors().values())
                found = {
                    key: tensor.grad for key, tensor in run.parameters.tensors().items() if tensor.grad is not None
                }
                results[f"{mode}/{name}"] = {"loss": torch.tensor(loss, dtype=torch.float64), **found}
        torch.save(results, out / f"rank{group.rank}.pt")


if __name__ == "__main__":
    main()
