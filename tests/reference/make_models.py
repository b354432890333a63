"""Random models in BGE-M3's layout, the same to the last bit wherever they are made.

Weights come from the raw 64-bit stream of numpy's PCG64, which numpy promises to keep, through exact float32
arithmetic: no library's normal distribution, no torch generator. Each tensor has a stream of its own, and is written
as it is made, so that the full-size model needs little memory.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

# The reference environment, ignored by git: models and goldens that are not committed live in it too.
LOCAL = Path(__file__).parents[2] / ".venv-reference"
VOCABULARY = 250_002
POSITIONS = 8_194
_SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
# Values made at once: the largest temporary array is 16 MiB.
_PIECE = 1 << 22
_WRITTEN_LAST = "colbert_linear.pt"


@dataclass(frozen=True)
class RandomModel:
    """Sizes and seed of a random XLM-RoBERTa with M3 heads.

    `lexical_bias` is set so that half of the tokens or more carry weight, as the states of each model happen to lie.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    ffn: int
    multi_dim: int
    lexical_bias: float
    seed: int


XLMR_2_LAYER = RandomModel(
    "xlmr-2-layer", hidden=64, layers=2, heads=4, ffn=256, multi_dim=32, lexical_bias=-0.02, seed=64
)
BGE_M3_RANDOM = RandomModel(
    "bge-m3-random", hidden=1024, layers=24, heads=16, ffn=4096, multi_dim=1024, lexical_bias=0.34, seed=1024
)
RANDOM_MODELS = {model.name: model for model in (XLMR_2_LAYER, BGE_M3_RANDOM)}


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    spread: float
    centre: float = 0.0

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def model_folder(name: str, m3_small: Path) -> Path:
    """The folder of a model by its name; a random model is made, with m3-small's tokenizer, where it is not yet.

    Raises FileNotFoundError if `name` is neither a known model nor a model folder.
    """
    if name in RANDOM_MODELS:
        folder = LOCAL / "models" / name
        # The full-size one is 2.3 GB: it is made once. The small one takes a second, and its sizes may have changed.
        if RANDOM_MODELS[name] is not BGE_M3_RANDOM or not (folder / _WRITTEN_LAST).is_file():
            make_model(RANDOM_MODELS[name], folder, m3_small / "tokenizer.json")
        return folder
    folder = m3_small if name == "m3-small" else Path(name)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is not a model folder: a model is one of {', '.join([*RANDOM_MODELS, 'm3-small'])} or a folder "
            "with config.json; m3-small comes with: m3 models pull m3-small"
        )
    return folder


def make_model(model: RandomModel, folder: Path, tokenizer: Path) -> Path:
    """Write the model's folder; `tokenizer` is the tokenizer.json of XLM-R. An existing folder is written anew."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1_Pooling").mkdir(parents=True)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    for name, value in _settings(model).items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="ascii")
    _write_safetensors(folder / "model.safetensors", _backbone(model), model.seed)
    _write_head(folder / "sparse_linear.pt", model, outputs=1, spread=0.15, centre=model.lexical_bias)
    _write_head(folder / _WRITTEN_LAST, model, outputs=model.multi_dim, spread=1.0, centre=0.0)
    return folder


def _backbone(model: RandomModel) -> list[_Tensor]:
    hidden = model.hidden
    tensors = [
        _Tensor("embeddings.word_embeddings.weight", (VOCABULARY, hidden), 1.0),
        _Tensor("embeddings.position_embeddings.weight", (POSITIONS, hidden), 0.5),
        _Tensor("embeddings.token_type_embeddings.weight", (1, hidden), 0.2),
        *_norm("embeddings.LayerNorm", hidden),
    ]
    # What a layer adds, the less the more of them: else all tokens of a text end up in one state.
    added = (2 / model.layers) ** 0.75
    for layer in range(model.layers):
        prefix = f"encoder.layer.{layer}"
        # Wide enough that attention prefers some tokens: a uniform one would hide a wrong mask or scale.
        for part, gain in (("query", 1.5), ("key", 1.5), ("value", 1.0)):
            tensors += _linear(f"{prefix}.attention.self.{part}", hidden, hidden, gain)
        tensors += _linear(f"{prefix}.attention.output.dense", hidden, hidden, added)
        tensors += _norm(f"{prefix}.attention.output.LayerNorm", hidden)
        tensors += _linear(f"{prefix}.intermediate.dense", model.ffn, hidden, 1.0)
        tensors += _linear(f"{prefix}.output.dense", hidden, model.ffn, 1.5 * added)
        tensors += _norm(f"{prefix}.output.LayerNorm", hidden)
    # The real checkpoint has a pooler too, and nobody uses it.
    return tensors + _linear("pooler.dense", hidden, hidden, 1.0)


def _linear(name: str, outputs: int, inputs: int, gain: float) -> list[_Tensor]:
    return [
        _Tensor(f"{name}.weight", (outputs, inputs), gain / inputs**0.5),
        _Tensor(f"{name}.bias", (outputs,), 0.1),
    ]


def _norm(name: str, size: int) -> list[_Tensor]:
    return [_Tensor(f"{name}.weight", (size,), 0.1, centre=1.0), _Tensor(f"{name}.bias", (size,), 0.1)]


def _pieces(tensor: _Tensor, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """The values of a tensor in order: uniform, of standard deviation `spread`, around `centre`."""
    stream = np.random.PCG64([seed, zlib.crc32(tensor.name.encode("ascii"))])
    # A uniform distribution over [-1, 1) has the deviation 1 / sqrt(3).
    scale, centre = np.float32(tensor.spread * 3**0.5), np.float32(tensor.centre)
    for start in range(0, tensor.size, _PIECE):
        count = min(_PIECE, tensor.size - start)
        halves = stream.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
        # 24 bits fit a float32 exactly, so that only the two last steps round, as IEEE says.
        unit = (halves >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
        yield unit * scale + centre


def _write_safetensors(path: Path, tensors: list[_Tensor], seed: int) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + 4 * tensor.size
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode("ascii")
    # The format wants tensors on 8 bytes.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in _pieces(tensor, seed):
                file.write(piece.astype("<f4", copy=False).tobytes())


def _write_head(path: Path, model: RandomModel, *, outputs: int, spread: float, centre: float) -> None:
    import torch

    weight = _Tensor(f"{path.stem}.weight", (outputs, model.hidden), spread / model.hidden**0.5)
    bias = _Tensor(f"{path.stem}.bias", (outputs,), 0.02, centre)
    state = {}
    for name, tensor in (("weight", weight), ("bias", bias)):
        values = np.concatenate(list(_pieces(tensor, model.seed))).reshape(tensor.shape)
        # float16 as in the real checkpoint: the reference may pass heads through it.
        state[name] = torch.from_numpy(values.astype(np.float16))
    torch.save(state, path)


def _settings(model: RandomModel) -> dict[str, object]:
    return {
        "config.json": {
            "architectures": ["XLMRobertaModel"],
            "model_type": "xlm-roberta",
            "hidden_size": model.hidden,
            "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads,
            "intermediate_size": model.ffn,
            "hidden_act": "gelu",
            "vocab_size": VOCABULARY,
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "torch_dtype": "float32",
        },
        "tokenizer_config.json": {
            "tokenizer_class": "XLMRobertaTokenizer",
            "model_max_length": POSITIONS - 2,
            **_SPECIAL_TOKENS,
        },
        "special_tokens_map.json": _SPECIAL_TOKENS,
        "1_Pooling/config.json": {
            "word_embedding_dimension": model.hidden,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
    }
