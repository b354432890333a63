"""What is read of a file of weights, and which files are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from m3core.checkpoint import Architecture, read_spec
from m3core.errors import ModelError
from m3core.weights import backbone_shapes, read_weights
from tests.tiny import make_tiny_model

QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")


def pickle_it(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda same: same) -> Path:
    """Replace the safetensors file by a pytorch_model.bin."""
    torch.save(change(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_the_forward_pass_reads_every_tensor_of_a_backbone(tmp_path: Path, family: str) -> None:
    folder = make_tiny_model(tmp_path / "model", family=family)
    stored = load_file(folder / "model.safetensors")
    weights = read_weights(read_spec(folder))
    assert {tensor.name: tensor.shape for tensor in weights.backbone} == {
        name: tuple(tensor.shape) for name, tensor in stored.items()
    }
    assert weights.parameters == sum(tensor.numel() for tensor in stored.values())
    assert (weights.unused, weights.dtypes) == ((), ("float32",))
    assert weights.size == (folder / "model.safetensors").stat().st_size


def test_bge_m3_has_the_parameters_that_it_is_known_for() -> None:
    sizes = Architecture(
        family="xlm-roberta", hidden=1024, layers=24, heads=16, ffn=4096, vocabulary=250_002, positions=8194,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    shapes = backbone_shapes(sizes)
    assert sum(torch.Size(size or 1 for size in shape).numel() for shape in shapes.values()) == 566_705_152


def test_the_models_own_prefix_and_what_is_not_read(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {f"roberta.{name}": tensor.half() for name, tensor in tensors.items()}
        named["roberta.embeddings.position_ids"] = torch.arange(4)
        return named | {"roberta.pooler.dense.weight": torch.ones(2, 2), "lm_head.bias": torch.ones(3)}

    path = pickle_it(folder, change)
    weights = read_weights(read_spec(folder))
    assert weights.path == path
    assert weights.dtypes == ("float16",)
    assert [tensor.stored_as for tensor in weights.unused] == [
        "roberta.embeddings.position_ids", "roberta.pooler.dense.weight", "lm_head.bias",
    ]  # fmt: skip
    assert weights.backbone[0].name == "embeddings.word_embeddings.weight"
    assert weights.backbone[0].stored_as == "roberta.embeddings.word_embeddings.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_both_containers(folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    expected = (str(dtype).removeprefix("torch."),)
    assert read_weights(read_spec(folder)).dtypes == expected
    pickle_it(folder)
    assert read_weights(read_spec(folder)).dtypes == expected


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {name: x for name, x in t.items() if name != QUERY}, f"tensor {QUERY} is missing"),
        (lambda t: {**t, QUERY: torch.ones(31, 32)}, rf"{QUERY} is \[31, 32\]; config.json says \[32, 32\]"),
        (lambda t: {**t, QUERY: torch.ones(32)}, rf"{QUERY} is \[32\]; config.json says \[32, 32\]"),
        (
            lambda t: {**t, "embeddings.token_type_embeddings.weight": torch.ones(2, 31)},
            r"token_type_embeddings.weight is \[2, 31\]; config.json says \[any, 32\]",
        ),
        (lambda t: {**t, QUERY: torch.ones(32, 32, dtype=torch.int8)}, f"{QUERY} is stored as (I8|int8)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, pickled: bool
) -> None:
    if pickled:
        pickle_it(folder, change)
    else:
        rewrite(folder, change)
    with pytest.raises(ModelError, match=message):
        read_weights(read_spec(folder))


@pytest.fixture(scope="module")
def cut_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("cut") / "model"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tiny_model: Path, cut_folder: Path, name: str, share: float) -> None:
    whole = cut_folder.parent / name
    if not whole.exists():
        tensors = load_file(tiny_model / "model.safetensors")
        torch.save(tensors, whole) if name.endswith(".bin") else save_file(tensors, whole)
    (cut_folder / "model.safetensors").unlink(missing_ok=True)
    data = whole.read_bytes()
    (cut_folder / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"is not a (whole safetensors file|plain file of tensors)") as raised:
        read_weights(read_spec(cut_folder))
    assert "\n" not in raised.value.message
    (cut_folder / name).unlink()


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model.safetensors nor pytorch_model.bin is there"):
        read_weights(read_spec(folder))
