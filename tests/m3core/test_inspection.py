"""What an inspection finds, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from m3core.checkpoint import read_spec
from m3core.errors import ModelError
from m3core.fingerprint import encoder_fingerprint
from m3core.inspection import HeadShape, Inspection, inspect_model
from m3core.types import Signal
from m3core.weights import read_weights


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def inspect(folder: Path) -> Inspection:
    return inspect_model(read_spec(folder))


def test_a_whole_model(tiny_model: Path) -> None:
    spec = read_spec(tiny_model)
    found = inspect_model(spec)
    assert found.heads == {Signal.LEXICAL: HeadShape(32, 1), Signal.MULTI: HeadShape(32, 8)}
    assert found.weights == read_weights(spec)
    assert found.parameters == found.weights.parameters + 33 + 33 * 8
    assert found.tokenizer_ids == spec.architecture.vocabulary
    assert found.fingerprint == encoder_fingerprint(spec)


def test_missing_heads_are_no_error(folder: Path) -> None:
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (folder / name).unlink()
    found = inspect(folder)
    assert found.heads == {Signal.LEXICAL: None, Signal.MULTI: None}
    assert found.parameters == found.weights.parameters


def test_a_head_of_another_shape_is_one(folder: Path) -> None:
    torch.save({"weight": torch.ones(2, 32), "bias": torch.ones(2)}, folder / "sparse_linear.pt")
    with pytest.raises(ModelError, match=r"sparse_linear.pt: weight is \[2, 32\]; this backbone needs \[1, 32\]"):
        inspect(folder)


def test_a_tokenizer_of_another_vocabulary_is_one(folder: Path) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["model"]["vocab"]["zzzz"] = len(value["model"]["vocab"])
    path.write_text(json.dumps(value), encoding="utf-8")
    ids = read_spec(folder).architecture.vocabulary
    with pytest.raises(ModelError, match=f"the tokenizer has {ids + 1} ids, the backbone only {ids}"):
        inspect(folder)
    path.unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json is missing"):
        inspect(folder)
