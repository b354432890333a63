"""A trained encoder as a model folder of BGE-M3's layout: weights in float32, heads in float16."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from m3core.checkpoint import ModelSpec
from m3core.conversion import becoming, check_target, copy_rest
from m3core.disk import require_free
from m3core.encoder import Encoder
from m3core.fusion import Weights
from m3core.heads import Linear, write_head
from m3core.layout import EMBEDDINGS, MULTI_HEAD, NORMS, PRODUCTS, SPARSE_HEAD, WEIGHT_FILES, in_block
from m3core.model import Backbone

_SETTINGS = "m3.json"
# For heads, tokenizer, settings, card and curves.
_SPARE_BYTES = 48 << 20


@contextmanager
def new_model(encoder: Encoder, target: Path, presets: Mapping[str, Weights] | None = None) -> Iterator[Path]:
    """Write a trained encoder (a plain backbone in float32) and give the folder, for a card and the like beside it.

    It becomes `target` at the end, once an encoder has loaded it. `presets` replace those of the model that it was
    trained from. Raises UsageError if `target` is taken, DiskFullError if there is no room.
    """
    check_target(target)
    tensors = dict(checkpoint_tensors(encoder.backbone))
    require_free(target.absolute().parent, sum(part.nbytes for part in tensors.values()) + _SPARE_BYTES)
    with becoming(target) as folder:
        _write_weights(tensors, folder)
        copy_rest(encoder.spec.folder, folder, "float32")
        # Over the heads that the model had, which are among the rest.
        for name, head in ((SPARSE_HEAD, encoder.sparse_head), (MULTI_HEAD, encoder.multi_head)):
            assert head is not None  # noqa: S101 - an encoder that was trained has both
            write_head(head, folder / name)
        _write_settings(encoder.spec, folder, presets)
        yield folder
        Encoder.load(folder)


def checkpoint_tensors(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    """A plain backbone's tensors by the names of a checkpoint: what m3core.model.load_backbone reads."""
    tables = {"word": backbone.words, "position": backbone.positions, "token_type": backbone.types}
    for name, table in tables.items():
        yield f"{EMBEDDINGS}{name}_embeddings.weight", table
    yield f"{EMBEDDINGS}LayerNorm.weight", backbone.norm.weight
    yield f"{EMBEDDINGS}LayerNorm.bias", backbone.norm.bias
    for index, layer in enumerate(backbone.layers):
        for product, names in PRODUCTS.items():
            whole: Linear = getattr(layer, product)
            for end in ("weight", "bias"):
                parts = getattr(whole, end).chunk(len(names))
                yield from ((in_block(index, f"{name}.{end}"), part) for name, part in zip(names, parts, strict=True))
        for norm, name in NORMS.items():
            for end in ("weight", "bias"):
                yield in_block(index, f"{name}.{end}"), getattr(getattr(layer, norm), end)


def _write_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, folder / WEIGHT_FILES[0], metadata={"format": "pt"})


def _write_settings(spec: ModelSpec, folder: Path, presets: Mapping[str, Weights] | None) -> None:
    """`m3.json` as the model had it, with the width of its multi-vectors and the presets given."""
    path = folder / _SETTINGS
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings["multi_dim"] = spec.multi_dim
    if presets is not None:
        settings["presets"] = settings.get("presets", {}) | {name: asdict(preset) for name, preset in presets.items()}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
