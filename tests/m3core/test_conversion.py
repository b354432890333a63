"""A converted model holds what the first one did, in another dtype, and is written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from m3core import Encoder, conversion
from m3core.checkpoint import read_spec
from m3core.conversion import StoredDtype, convert_model
from m3core.errors import DiskFullError, ModelError, UsageError
from m3core.types import Encoded
from pipelines.cli.models import DTYPES
from tests.tiny import make_tiny_model

TEXTS = ["The key is at the front desk.", "", "ключ хранится у дежурного " * 80]


class Disk(NamedTuple):
    total: int
    used: int
    free: int


def convert(folder: Path, target: Path, dtype: StoredDtype = "float32") -> None:
    convert_model(read_spec(folder), target, dtype)


def encode(folder: Path) -> Encoded:
    return Encoder.load(folder, precision="float32").encode(TEXTS)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_the_command_offers_every_dtype() -> None:
    assert get_args(StoredDtype) == DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_is_the_first_one_in_another_dtype(tiny_model: Path, tmp_path: Path, dtype: StoredDtype) -> None:
    done = convert_model(read_spec(tiny_model), tmp_path / "new", dtype)
    before, after = load_file(tiny_model / "model.safetensors"), load_file(tmp_path / "new" / "model.safetensors")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.to(getattr(torch, dtype)))
    assert done.after.weights.dtypes == (dtype,)
    assert done.after.spec.folder == tmp_path / "new"
    assert done.before.fingerprint != done.after.fingerprint or dtype == "float32"


def test_from_a_pickle_in_float32_the_vectors_are_the_same(folder: Path, tmp_path: Path) -> None:
    before = encode(folder)
    tensors = load_file(folder / "model.safetensors")
    pooler = {"pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(32)}
    torch.save({f"bert.{name}": value for name, value in (tensors | pooler).items()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    convert(folder, tmp_path / "new")
    assert load_file(tmp_path / "new" / "model.safetensors").keys() == tensors.keys()
    after = encode(tmp_path / "new")
    assert before.dense is not None
    assert after.dense is not None
    assert np.array_equal(before.dense, after.dense)
    assert before.multi is not None
    assert after.multi is not None
    assert np.array_equal(before.multi.values, after.multi.values)


def test_transformers_reads_it_in_its_dtype(tmp_path: Path) -> None:
    from transformers import AutoModel

    source = make_tiny_model(tmp_path / "model", family="xlm-roberta")
    convert(source, tmp_path / "new", "bfloat16")
    model = AutoModel.from_pretrained(tmp_path / "new", dtype="auto", add_pooling_layer=False)
    assert model.dtype == torch.bfloat16
    stored = load_file(source / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(model.get_input_embeddings().weight, stored.bfloat16())


def test_everything_that_a_loader_reads_comes_along_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    for name in ("README.md", "special_tokens_map.json", "modules.json", "modeling.py", "files.json"):
        (folder / name).write_text("{}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32", "torch_dtype": "float32"}))
    convert(folder, tmp_path / "new", "float16")
    same = {
        "1_Pooling/config.json", "README.md", "colbert_linear.pt", "config_sentence_transformers.json", "m3.json",
        "modules.json", "sparse_linear.pt", "special_tokens_map.json", "tokenizer.json",
    }  # fmt: skip
    found = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert found == same | {"config.json", "model.safetensors"}
    assert len({(tmp_path / "new" / name).stat().st_mode for name in found}) == 1
    for name in same:
        assert (tmp_path / "new" / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == config | {"torch_dtype": "float16"}


def test_a_target_that_is_taken_or_nowhere_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("mine")
    with pytest.raises(UsageError, match="taken is there already, a folder with files in it"):
        convert(tiny_model, tmp_path / "taken")
    with pytest.raises(UsageError, match="x is there already, a file"):
        convert(tiny_model, tmp_path / "taken" / "x")
    with pytest.raises(UsageError, match=r"the folder .*absent is not there. Remedy: mkdir -p"):
        convert(tiny_model, tmp_path / "absent" / "new")
    assert (tmp_path / "taken" / "x").read_text() == "mine"


def test_an_empty_target_is_taken_for_new(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path)
    convert(tiny_model, Path("new"))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new" / "model.safetensors").is_file()


def test_too_little_room_is_said_before_anything_is_written(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(DiskFullError, match="new: 1 MiB free; the model in float32 needs 4 MiB"):
        convert(tiny_model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_written_leave_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(DiskFullError, match=r"weights could not be written \(No space left on device\)"):
        convert(tiny_model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_load_is_not_left(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        @staticmethod
        def load(folder: Path) -> None:
            assert (folder / "model.safetensors").is_file()
            raise ModelError("it does not load")

    monkeypatch.setattr(conversion, "Encoder", Refusing)
    with pytest.raises(ModelError, match="it does not load"):
        convert(tiny_model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sparse_linear.pt", "colbert_linear.pt"])
def test_a_model_without_a_head_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        convert(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [(1e6, "float16", "does not fit into float16"), (float("nan"), "float32", "has values that are not finite")],
)
def test_values_that_a_dtype_cannot_hold_are_refused(
    folder: Path, tmp_path: Path, value: float, dtype: StoredDtype, message: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][3] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=f"embeddings.LayerNorm.bias {message}"):
        convert(folder, tmp_path / "new", dtype)
    assert not (tmp_path / "new").exists()
