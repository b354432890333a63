"""Model folders that are broken, each in one way, and what every command says of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch


class _Code:
    """A pickle of this runs a command when it is loaded without care."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._trace}",)


def ran(folder: Path) -> bool:
    """Whether a pickle's code was run."""
    return (folder / "ran").exists()


def _truncated_safetensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _truncated_bin(folder: Path) -> None:
    _as_bin(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-1000])


def _as_bin(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _code_in_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": _Code(folder / "ran")}, folder / "pytorch_model.bin")


def _code_in_a_head(folder: Path) -> None:
    torch.save({"weight": _Code(folder / "ran"), "bias": torch.ones(1)}, folder / "sparse_linear.pt")


def _truncated_head(folder: Path) -> None:
    path = folder / "colbert_linear.pt"
    path.write_bytes(path.read_bytes()[:700])


def _wide_head(folder: Path) -> None:
    torch.save({"weight": torch.ones(1, 33), "bias": torch.ones(1)}, folder / "sparse_linear.pt")


def _head_of_another_width(folder: Path) -> None:
    torch.save({"weight": torch.ones(9, 32), "bias": torch.ones(9)}, folder / "colbert_linear.pt")


def _head_of_no_numbers(folder: Path) -> None:
    torch.save({"weight": torch.full((1, 32), torch.nan), "bias": torch.ones(1)}, folder / "sparse_linear.pt")


def _no_head_at_all(folder: Path) -> None:
    torch.save([1, 2], folder / "sparse_linear.pt")


def _other_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["model"]["vocab"] |= {f"zzzz{i}": len(value["model"]["vocab"]) + i for i in range(7)}
    path.write_text(json.dumps(value), encoding="utf-8")


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def _other_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 65}))


def _other_backbone(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')


# Each: how it is broken, the file named, and what is said of it.
BROKEN: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "truncated safetensors": (_truncated_safetensors, "model.safetensors", "is not a whole safetensors file"),
    "truncated bin": (_truncated_bin, "pytorch_model.bin", "is not a plain file of tensors"),
    "code in the weights": (_code_in_weights, "pytorch_model.bin", "is not a plain file of tensors"),
    "code in a head": (_code_in_a_head, "sparse_linear.pt", "is not a plain file of tensors"),
    "truncated head": (_truncated_head, "colbert_linear.pt", "is not a plain file of tensors"),
    "head for another backbone": (_wide_head, "sparse_linear.pt", "weight is [1, 33]; this backbone needs [1, 32]"),
    "head of another width": (
        _head_of_another_width, "colbert_linear.pt", "weight is [9, 32]; this backbone needs [8, 32]",
    ),
    "head of no numbers": (_head_of_no_numbers, "sparse_linear.pt", "the head has values that are not finite"),
    "no head at all": (_no_head_at_all, "sparse_linear.pt", "holds something else than named tensors"),
    "tokenizer of another vocabulary": (_other_vocabulary, "", "ids, the backbone only "),
    "broken tokenizer": (_broken_tokenizer, "", "tokenizer.json cannot be read"),
    "sizes that are not the weights'": (_other_config, "model.safetensors", "config.json says [65, 32]"),
    "a backbone of another kind": (_other_backbone, "", "model_type 'gpt2' is not known"),
}  # fmt: skip
