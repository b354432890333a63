"""An inspected or converted model as lines for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from m3core.inspection import HEAD_FILES
from m3core.terminal import plain
from m3core.types import Signal
from pipelines.cli.look import copyable
from pipelines.cli.report import SCHEMA_VERSION

if TYPE_CHECKING:
    from m3core.conversion import Conversion
    from m3core.fusion import Weights
    from m3core.inspection import Inspection

_LOST = {Signal.LEXICAL: "lexical weights", Signal.MULTI: "multi-vectors"}


def lines(inspection: Inspection) -> list[str]:
    """The inspection for people: one fact a line, a missing head told beside the others."""
    spec, sizes = inspection.spec, inspection.spec.architecture
    facts = [
        ("folder", copyable(spec.folder)),
        ("backbone", f"{sizes.family}, {sizes.layers} layers, {sizes.hidden:,} hidden, {sizes.heads} heads, "
                     f"{sizes.ffn:,} FFN"),
        ("vocabulary", f"{sizes.vocabulary:,} ids, {inspection.tokenizer_ids:,} of them in the tokenizer"),
        ("limit", f"{spec.max_length:,} tokens, {sizes.positions:,} positions"),
        ("pooling", spec.pooling),
        *((f"{kind} prefix", f'"{spec.prefix(kind)}"' if spec.prefix(kind) else "none") for kind in _KINDS),
        ("dense", f"{spec.dense_dim:,} wide"),
        *((signal.value, _head(inspection, signal)) for signal in HEAD_FILES),
        ("weights", _weights(inspection)),
        ("parameters", f"{inspection.parameters:,}"),
        *(("presets" if not number else "", text) for number, text in enumerate(map(_preset, spec.presets.items()))),
        ("fingerprint", inspection.fingerprint),
    ]  # fmt: skip
    return [plain(spec.name), *(f"  {name:<14}  {plain(text)}" for name, text in facts)]


_KINDS = ("query", "passage")


def _head(inspection: Inspection, signal: Signal) -> str:
    head = inspection.heads[signal]
    if head is None:
        return f"missing: without {HEAD_FILES[signal]} the model cannot give {_LOST[signal]}"
    what = "one weight a token" if signal is Signal.LEXICAL else f"{head.outputs:,} wide, one vector a token"
    return f"{what} ({HEAD_FILES[signal]})"


def _weights(inspection: Inspection) -> str:
    weights = inspection.weights
    tensors = f"{len(weights.backbone)} tensors"
    if weights.unused:
        tensors += f", {len(weights.unused)} more unused"
    return f"{weights.path.name}, {_megabytes(weights.size)}, {' and '.join(weights.dtypes)}, {tensors}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _preset(preset: tuple[str, Weights]) -> str:
    name, weights = preset
    return f"{name}: dense {weights.dense:g}, lexical {weights.lexical:g}, multi {weights.multi:g}"


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The inspection as one document; sizes in bytes, `limit` in tokens."""
    spec, weights = inspection.spec, inspection.weights
    return {
        "schema_version": SCHEMA_VERSION,
        "model": spec.name,
        "folder": str(spec.folder),
        "architecture": {**asdict(spec.architecture), "tokenizer_ids": inspection.tokenizer_ids},
        "limit": spec.max_length,
        "pooling": spec.pooling,
        "prefixes": {kind: spec.prefix(kind) for kind in _KINDS},
        "dense": {"width": spec.dense_dim},
        **{signal.value: _head_as_json(inspection, signal) for signal in HEAD_FILES},
        "weights": {
            "file": weights.path.name,
            "bytes": weights.size,
            "dtypes": list(weights.dtypes),
            "tensors": len(weights.backbone),
            "unused_tensors": [tensor.stored_as for tensor in weights.unused],
        },
        "parameters": inspection.parameters,
        "presets": {name: asdict(weights) for name, weights in spec.presets.items()},
        "fingerprint": inspection.fingerprint,
    }


def _head_as_json(inspection: Inspection, signal: Signal) -> dict[str, Any]:
    head = inspection.heads[signal]
    present = {"width": head.outputs, "inputs": head.inputs} if head is not None else {}
    return {"file": HEAD_FILES[signal], "present": head is not None, **present}


def converted_lines(conversion: Conversion) -> list[str]:
    """What was written, what it was before, and what another fingerprint means."""
    before, after = conversion.before, conversion.after
    folder = copyable(after.spec.folder)
    return [
        f"wrote {plain(folder)}; it was loaded once to check it",
        f"  weights      {_weights(after)}",
        f"  before       {_weights(before)}",
        f"  fingerprint  {after.fingerprint}",
        f"  before       {before.fingerprint}",
        "Another fingerprint is another model: a collection made with one takes no vectors of the other.",
    ]
