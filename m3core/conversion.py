"""A model folder written anew: the weights as safetensors in one dtype, everything else as it is."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from m3core.checkpoint import ModelSpec, read_spec
from m3core.encoder import Encoder
from m3core.errors import DiskFullError, ModelError, UsageError
from m3core.heads import read_head
from m3core.inspection import HEAD_FILES, Inspection, inspect_model
from m3core.layout import WEIGHT_FILES
from m3core.weights import WeightsFile, read_tensors

StoredDtype = Literal["float32", "float16", "bfloat16"]

# Only what a loader or a person reads; a hub folder may hold much else, code included.
_KEPT = (
    *HEAD_FILES.values(),
    "1_Pooling/config.json",
    "LICENSE",
    "README.md",
    "added_tokens.json",
    "config_sentence_transformers.json",
    "m3.json",
    "modules.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
# For config.json, the header of the weights and the folders themselves.
_SPARE_BYTES = 4 << 20


@dataclass(frozen=True)
class Conversion:
    """A model before and after; both were inspected, the second was loaded."""

    before: Inspection
    after: Inspection


def convert_model(spec: ModelSpec, target: Path, dtype: StoredDtype) -> Conversion:
    """Write `target`: a folder in BGE-M3's layout with `model.safetensors` in `dtype`, without the unused pooler.

    It gets its name only when the encoder has loaded it.

    Raises:
        ModelError: the model is malformed, unsafe or lacks a head, or a value does not fit into `dtype`.
        UsageError: `target` is taken or has no parent.
        DiskFullError: there is no room.
    """
    check_target(target)
    before = inspect_model(spec)
    for name in HEAD_FILES.values():
        read_head(spec.folder, name)
    _check_room(before, target, dtype)
    with becoming(target) as folder:
        _write(before.weights, folder, dtype)
        copy_rest(spec.folder, folder, dtype)
        Encoder.load(folder)
    return Conversion(before, inspect_model(read_spec(target)))


def check_target(target: Path) -> None:
    """Raise UsageError if a new folder cannot get this name."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        what = "a folder with files in it" if target.is_dir() else "a file"
        raise UsageError(f"{target} is there already, {what}", "name a folder that is new or empty")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: the folder {target.parent} is not there", f"mkdir -p {target.parent}")


def _check_room(before: Inspection, target: Path, dtype: StoredDtype) -> None:
    kept = sum(path.stat().st_size for path in _kept_files(before.spec.folder))
    needed = before.weights.parameters * getattr(torch, dtype).itemsize + kept + _SPARE_BYTES
    free = shutil.disk_usage(target.absolute().parent).free
    if free < needed:
        raise DiskFullError(
            f"{target}: {free >> 20:,} MiB free; the model in {dtype} needs {needed >> 20:,} MiB",
            "free some space, or name a folder on a larger disk",
        )


@contextmanager
def becoming(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name at the end; nothing is left if the block raises."""
    place = target.resolve()
    folder = place.with_name(f".tmp-{place.name}-{os.getpid()}-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        yield folder
        folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(weights: WeightsFile, folder: Path, dtype: StoredDtype) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: _converted(tensor, name, weights.path, dtype) for name, tensor in read_tensors(weights)}
    try:
        save_file(tensors, folder / WEIGHT_FILES[0], metadata={"format": "pt"})
    except SafetensorError as error:
        # The folder is new and ours: what can fail is its file system.
        raise DiskFullError(f"{folder}: weights could not be written ({error})", "free some space") from error


def _converted(tensor: Tensor, name: str, path: Path, dtype: StoredDtype) -> Tensor:
    converted = tensor.to(getattr(torch, dtype)).contiguous()
    if not torch.isfinite(converted).all():
        reason = f"does not fit into {dtype}" if torch.isfinite(tensor).all() else "has values that are not finite"
        raise ModelError(f"{path}: {name} {reason}", "convert to bfloat16 or float32, or fetch the model folder again")
    return converted


def copy_rest(source: Path, folder: Path, dtype: StoredDtype) -> None:
    """Copy what belongs to a model but its weights; config.json tells their new dtype."""
    for path in _kept_files(source):
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    # transformers 5 writes dtype, earlier ones torch_dtype, and every one reads the latter.
    config = {key: value for key, value in config.items() if key != "dtype"} | {"torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # safetensors writes for its owner only, whatever the umask; who may read the rest may read the weights.
    (folder / WEIGHT_FILES[0]).chmod((folder / "config.json").stat().st_mode & 0o777)


def _kept_files(source: Path) -> list[Path]:
    return [source / name for name in _KEPT if (source / name).is_file()]


__all__ = ["Conversion", "StoredDtype", "becoming", "check_target", "convert_model", "copy_rest"]
