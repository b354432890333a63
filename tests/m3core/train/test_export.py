"""The folder that is written, against the encoder in memory, and what trains in which mode."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from m3core import Encoder
from m3core.errors import TrainingError, UsageError
from m3core.fusion import Weights
from m3core.train.export import checkpoint_tensors, new_model
from m3core.train.finetune import Plan
from m3core.train.loop import Budget
from m3core.train.modes import Lora, Mode, merged_backbone, parameters_of
from m3core.train.parameters import Rates, backbone_tensors
from m3core.train.schedule import Batching
from m3core.weights import read_tensors, read_weights
from tests.m3core.train.parts import made_rows, made_run

_TEXTS = ["the key", "night train to the laboratory", "", "Schlüssel " * 30]


@pytest.mark.parametrize("mode", ["heads", "lora", "full"])
def test_the_folder_gives_the_vectors_of_the_trained_encoder(tiny_model: Path, tmp_path: Path, mode: Mode) -> None:
    plan = Plan(Batching(rows=8), budget=Budget(steps=6))
    run = made_run(tiny_model, mode, plan, made_rows(16))
    run.loop.run(run.learn, str)
    trained = run.trained()
    target = tmp_path / "model"
    with new_model(trained, target, {"balanced": Weights(0.5, 0.1, 0.4)}) as folder:
        (folder / "README.md").write_text("card")
        assert not target.exists()
    # In the precision that was trained in: the fastest one may be another.
    loaded = Encoder.load(target, precision="float32")
    assert (target / "README.md").read_text() == "card"
    assert loaded.spec.presets["balanced"] == Weights(0.5, 0.1, 0.4)
    assert json.loads((target / "m3.json").read_text())["multi_dim"] == 8
    for kind in ("query", "passage"):
        inside, outside = trained.encode(_TEXTS, kind), loaded.encode(_TEXTS, kind)  # type: ignore[arg-type]
        assert inside.dense is not None
        assert inside.lexical is not None
        assert inside.multi is not None
        assert outside.lexical is not None
        assert outside.multi is not None
        assert np.array_equal(inside.dense, outside.dense)  # type: ignore[arg-type]
        assert np.array_equal(inside.lexical.ids, outside.lexical.ids)
        assert np.array_equal(inside.lexical.weights, outside.lexical.weights)
        assert np.array_equal(inside.multi.values, outside.multi.values)
    before = dict(read_tensors(read_weights(Encoder.load(tiny_model).spec)))
    after = dict(read_tensors(read_weights(loaded.spec)))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    if mode == "heads":
        assert not moved
    elif mode == "lora":
        products = {name for name in before if name.startswith("encoder") and name.endswith("weight")}
        assert moved == {name for name in products if "Norm" not in name}
    else:
        # Positions that no text reached keep their rows, the tables move all the same.
        assert moved == set(before)
    for head in ("sparse_head", "multi_head"):
        assert torch.equal(getattr(trained, head).weight, getattr(loaded, head).weight)
        assert torch.equal(getattr(trained, head).bias, getattr(loaded, head).bias)
        assert not torch.equal(getattr(run.encoder, head).weight, getattr(loaded, head).weight)


def test_an_adapter_is_merged_in_float64_and_rounded_once(tiny_model: Path) -> None:
    run = made_run(tiny_model, "lora", Plan(), made_rows(8))
    merged = dict(backbone_tensors(merged_backbone(run.encoder.backbone, run.parameters)))
    tensors = run.parameters.body.tensors
    for name, plain in backbone_tensors(run.encoder.backbone):
        index, product, end = name.split(".") if name[0].isdigit() else ("", "", "")
        if end == "weight" and f"{index}.{product}.inner" in tensors:
            outer, inner = (tensors[f"{index}.{product}.{part}"].detach().double() for part in ("outer", "inner"))
            plain = (plain.double() + 2.0 * outer @ inner).float()  # noqa: PLW2901
        assert torch.equal(merged[name], plain), name


def test_the_names_of_a_checkpoint_are_those_that_are_read(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model)
    read = dict(read_tensors(read_weights(encoder.spec)))
    written = dict(checkpoint_tensors(encoder.backbone))
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)


def test_a_taken_name_is_refused_and_a_failure_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    trained = made_run(tiny_model, "heads", Plan(), made_rows(8)).trained()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").write_text("x")
    with pytest.raises(UsageError, match="is there already"), new_model(trained, taken):
        pass
    with pytest.raises(ZeroDivisionError), new_model(trained, tmp_path / "new"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_modes_and_depths(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model)
    assert {name.split(".")[0] for name in parameters_of(encoder, "lora", Lora(depth=1), 0).body.tensors} == {"1"}
    assert not parameters_of(encoder, "heads", Lora(), 0).body.tensors
    with pytest.raises(TrainingError, match="depth 3: the backbone has 2 blocks"):
        parameters_of(encoder, "lora", Lora(depth=3), 0)
    with pytest.raises(TrainingError, match="without its heads"):
        parameters_of(Encoder.load(tiny_model, signals=["dense"]), "heads", Lora(), 0)  # type: ignore[list-item]


@pytest.mark.parametrize("mode", ["heads", "lora", "full"])
def test_training_lowers_the_loss(tiny_model: Path, mode: Mode) -> None:
    rates = Rates(adapter=3e-3, sparse=1e-2, multi=1e-2)
    plan = Plan(Batching(rows=16, negatives=1), rates, budget=Budget(steps=40))
    run = made_run(tiny_model, mode, plan, made_rows(16))
    run.loop.run(run.learn, str)
    losses = [row["sum"] for row in run.loop.history]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
