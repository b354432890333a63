"""What a model folder in BGE-M3's layout holds, read without loading weights.

`config.json` (BERT or XLM-RoBERTa), `model.safetensors` or `pytorch_model.bin`, `sparse_linear.pt`,
`colbert_linear.pt`, `tokenizer.json`, and as far as they are there `1_Pooling/config.json` (cls unless it says mean),
`config_sentence_transformers.json` (prompts `query` and `passage`) and `m3.json` (presets, multi_dim).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from m3core.errors import ModelError, UsageError
from m3core.fusion import BUILT_IN_PRESETS, Weights
from m3core.layout import MULTI_HEAD, REFETCH, WEIGHT_FILES
from m3core.zoo import resolve_model

_MAX_JSON_BYTES = 1 << 20
# MCLS (M3-Embedding, section 3.4): one cls in front of each 256 tokens of text.
MCLS_STRIDE = 257
# Paper and FlagEmbedding: queries are read up to 512 tokens, passages up to the model's limit.
QUERY_MAX_LENGTH = 512
# The id of the padding token where the family numbers positions by it.
_PADDING = {"bert": None, "xlm-roberta": 1}


PrecisionClass = Literal["float", "int8"]


@dataclass(frozen=True)
class Architecture:
    """Sizes of the backbone."""

    family: Literal["bert", "xlm-roberta"]
    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    layer_norm_eps: float

    @property
    def padding(self) -> int | None:
        """Id of the token that takes no position of its own; None: every token takes one."""
        return _PADDING[self.family]

    @property
    def position_offset(self) -> int:
        """Position id of a text's first token: XLM-RoBERTa numbers from the padding token's id + 1, BERT from 0."""
        return 0 if self.padding is None else self.padding + 1


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that the rest of the product asks, without its weights.

    `max_length` counts all tokens that the backbone reads, specials and prefix included. `pooling` is never `mcls` in a
    file: it is chosen when the model is loaded, and so is `precision_class`. `special_ids` are ids of special tokens
    that config.json relies on, by their role in m3core.tokenize.SpecialIds.
    """

    name: str
    folder: Path
    architecture: Architecture
    pooling: Literal["cls", "mean", "mcls"]
    max_length: int
    multi_dim: int
    query_prefix: str = ""
    passage_prefix: str = ""
    presets: Mapping[str, Weights] = field(default_factory=lambda: dict(BUILT_IN_PRESETS))
    special_ids: Mapping[str, int] = field(default_factory=dict)
    precision_class: PrecisionClass = "float"

    @property
    def dense_dim(self) -> int:
        """Width of the dense vector."""
        return self.architecture.hidden

    @property
    def cls_stride(self) -> int | None:
        """Every so many tokens a cls stands in a text; None: only at its start."""
        return MCLS_STRIDE if self.pooling == "mcls" else None

    @property
    def weights_file(self) -> Path:
        """The file with the backbone's weights. Raises ModelError if there is none."""
        for name in WEIGHT_FILES:
            if (self.folder / name).is_file():
                return self.folder / name
        raise ModelError(f"{self.folder}: neither {WEIGHT_FILES[0]} nor {WEIGHT_FILES[1]} is there", REFETCH)

    def prefix(self, kind: str) -> str:
        """The model's own prefix for `query` or `passage`."""
        return self.query_prefix if kind == "query" else self.passage_prefix

    def limit(self, kind: str) -> int:
        """Most tokens of a `query` or `passage` that are read, specials and prefix included."""
        return min(QUERY_MAX_LENGTH, self.max_length) if kind == "query" else self.max_length


def model_spec(
    name: str,
    revision: str | None = None,
    base: Path | None = None,
    long_pooling: str | None = None,
    precision: str = "auto",
) -> ModelSpec:
    """Settings of a model by its name: m3-small, a folder (a relative one is taken from `base`), or a hub id.

    `long_pooling` and `precision` are how it will run, as far as that makes other vectors of it.

    Raises ModelError and UsageError as m3core.zoo.resolve_model and `read_spec` do.
    """
    spec = read_spec(resolve_model(name, revision, base), name, long_pooling)
    return replace(spec, precision_class=precision_class(precision))


def precision_class(precision: str) -> PrecisionClass:
    """Of a configured precision. What runs in float32, bfloat16 and float16 may meet; int8 meets only itself."""
    return "int8" if precision == "int8" else "float"


def read_spec(folder: Path, name: str | None = None, long_pooling: str | None = None) -> ModelSpec:
    """Read a model folder's settings. `long_pooling` is None, or mcls for a model that pools cls.

    Raises ModelError if the folder is not a model, its architecture is not known or a setting is malformed, UsageError
    if the model cannot have that `long_pooling`.
    """
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} is not there", "give a folder, m3-small, or a hub id with a revision")
    config = _read_json(folder, "config.json", required=True)
    architecture = _architecture(folder, config)
    extras = _read_json(folder, "m3.json")
    prompts = _read_json(folder, "config_sentence_transformers.json").get("prompts") or {}
    return ModelSpec(
        name=name or folder.name,
        folder=folder,
        architecture=architecture,
        pooling=_long_pooling(_pooling(folder), long_pooling),
        max_length=_max_length(folder, architecture),
        multi_dim=_multi_dim(folder, extras),
        query_prefix=_text(folder, prompts, "query"),
        passage_prefix=_text(folder, prompts, "passage"),
        presets=_presets(folder, extras),
        special_ids=_special_ids(folder, architecture, config),
    )


def _long_pooling(pooling: Literal["cls", "mean"], wanted: str | None) -> Literal["cls", "mean", "mcls"]:
    if wanted is None:
        return pooling
    if wanted != "mcls" or pooling != "cls":
        raise UsageError(
            f"long_pooling {wanted!r} with a model that pools {pooling}: only mcls is known, and only for models that "
            "pool cls",
            "leave long_pooling out",
        )
    return "mcls"


def _read_json(folder: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        if required:
            raise ModelError(f"{folder}: {name} is missing", "a model folder in BGE-M3's layout has one")
        return {}
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ModelError(f"{path} has {path.stat().st_size} bytes; settings have at most {_MAX_JSON_BYTES}", REFETCH)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error})", REFETCH) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", REFETCH)
    return value


def _architecture(folder: Path, config: Mapping[str, Any]) -> Architecture:
    family = config.get("model_type")
    if family not in _PADDING:
        raise ModelError(
            f"{folder}: model_type {family!r} is not known; it must be bert or xlm-roberta",
            "use a BERT or XLM-RoBERTa backbone",
        )
    if config.get("hidden_act", "gelu") != "gelu" or config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(
            f"{folder}: config.json asks for hidden_act {config.get('hidden_act')!r} and positions "
            f"{config.get('position_embedding_type')!r}; known are gelu and absolute",
            "use a plain BERT or XLM-RoBERTa backbone",
        )
    try:
        architecture = Architecture(
            family=family,
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            ffn=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
            layer_norm_eps=float(config["layer_norm_eps"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: config.json: {error!r} is missing or not a number", REFETCH) from None
    if architecture.hidden % architecture.heads:
        raise ModelError(f"{folder}: {architecture.hidden} units do not divide by {architecture.heads} heads", REFETCH)
    return architecture


# Names in config.json by role, and what XLM-RoBERTa has where they are left out (transformers' XLMRobertaConfig).
_SPECIAL_KEYS = {
    "cls": ("bos_token_id", "cls_token_id"),
    "eos": ("eos_token_id", "sep_token_id"),
    "pad": ("pad_token_id",),
}
_XLMR_SPECIALS = {"cls": 0, "eos": 2, "pad": 1}


def _special_ids(folder: Path, sizes: Architecture, config: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens by role, as far as config.json tells them and the backbone relies on them.

    A BERT numbers positions without looking at padding, and models with an XLM-R vocabulary often keep BertConfig's 0
    for it: there it is not asked for.
    """
    ids = dict(_XLMR_SPECIALS) if sizes.family == "xlm-roberta" else {}
    roles = _SPECIAL_KEYS if sizes.padding is not None else {role: _SPECIAL_KEYS[role] for role in ("cls", "eos")}
    for role, keys in roles.items():
        for key in keys:
            told = config.get(key)
            if told is None:
                continue
            if not isinstance(told, int) or isinstance(told, bool):
                raise ModelError(f"{folder}: config.json: {key} is {told!r}; it must be a whole number", REFETCH)
            ids[role] = told
    if sizes.padding is not None and ids["pad"] != sizes.padding:
        raise ModelError(
            f"{folder}: config.json: pad_token_id is {ids['pad']}; a backbone of type {sizes.family} pads with "
            f"{sizes.padding}",
            REFETCH,
        )
    return ids


def _pooling(folder: Path) -> Literal["cls", "mean"]:
    pooling = _read_json(folder, "1_Pooling/config.json")
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    if modes in ([], ["pooling_mode_cls_token"]):
        return "cls"
    if modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    raise ModelError(f"{folder}: pooling {', '.join(modes)}; known are cls and mean, one of them", REFETCH)


def _max_length(folder: Path, architecture: Architecture) -> int:
    positions = architecture.positions - architecture.position_offset
    told = _read_json(folder, "tokenizer_config.json").get("model_max_length")
    # transformers writes 1e30 where no limit is known.
    return min(positions, int(told)) if isinstance(told, int | float) and told >= 1 else positions


def _multi_dim(folder: Path, extras: Mapping[str, Any]) -> int:
    told = extras.get("multi_dim")
    if isinstance(told, int) and told > 0:
        return told
    if not (folder / MULTI_HEAD).is_file():
        return 0
    from m3core.heads import read_head

    return int(read_head(folder, MULTI_HEAD).weight.shape[0])


def _text(folder: Path, prompts: Any, key: str) -> str:
    value = prompts.get(key, "") if isinstance(prompts, dict) else None
    if not isinstance(value, str) or len(value) > 1000:
        raise ModelError(f"{folder}: prompt {key!r} is not a text of at most 1000 characters", REFETCH)
    return value


def _presets(folder: Path, extras: Mapping[str, Any]) -> dict[str, Weights]:
    presets = dict(BUILT_IN_PRESETS)
    for name, value in (extras.get("presets") or {}).items():
        try:
            presets[name] = Weights(float(value["dense"]), float(value["lexical"]), float(value["multi"]))
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"{folder}: m3.json: preset {name!r} needs dense, lexical and multi", REFETCH) from None
    return presets
