"""What a model folder holds, checked as far as that goes without loading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from m3core.checkpoint import ModelSpec
from m3core.fingerprint import encoder_fingerprint
from m3core.heads import read_head
from m3core.layout import MULTI_HEAD, SPARSE_HEAD
from m3core.model import check_head
from m3core.tokenize import load_tokenizer
from m3core.types import Signal
from m3core.weights import WeightsFile, read_weights

HEAD_FILES: Mapping[Signal, str] = {Signal.LEXICAL: SPARSE_HEAD, Signal.MULTI: MULTI_HEAD}


@dataclass(frozen=True)
class HeadShape:
    """A head is a linear layer `[outputs, inputs]` with a bias."""

    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Values of weight and bias."""
        return (self.inputs + 1) * self.outputs


@dataclass(frozen=True)
class Inspection:
    """A model folder, inspected. A head whose file is not there is None in `heads`."""

    spec: ModelSpec
    weights: WeightsFile
    heads: Mapping[Signal, HeadShape | None]
    tokenizer_ids: int
    fingerprint: str

    @property
    def parameters(self) -> int:
        """Values of backbone and heads."""
        return self.weights.parameters + sum(head.parameters for head in self.heads.values() if head is not None)


def inspect_model(spec: ModelSpec) -> Inspection:
    """Look at everything that an encoder would load; of the weights only names, shapes and dtypes are read.

    Raises ModelError if a file is malformed, unsafe, or does not fit the others. A head that is missing is no error.
    """
    return Inspection(
        spec=spec,
        weights=read_weights(spec),
        heads={signal: _head(spec, signal) for signal in HEAD_FILES},
        tokenizer_ids=load_tokenizer(spec).vocabulary_size,
        fingerprint=encoder_fingerprint(spec),
    )


def _head(spec: ModelSpec, signal: Signal) -> HeadShape | None:
    name = HEAD_FILES[signal]
    if not (spec.folder / name).is_file():
        return None
    outputs = 1 if signal is Signal.LEXICAL else spec.multi_dim
    head = check_head(read_head(spec.folder, name), name, spec, outputs)
    return HeadShape(inputs=int(head.weight.shape[1]), outputs=outputs)
