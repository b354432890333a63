"""Which rankings are compared, by name: each signal, each preset of the model, given weights, RRF, BM25."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from m3core.errors import UsageError
from m3core.evaluate.search import Mix
from m3core.fusion import Weights
from m3core.nearest import did_you_mean
from m3core.types import Signal

GIVEN = "fused:given"
RRF = "rrf"
BM25 = "bm25"
THROUGH = "through"


def fused(preset: str) -> str:
    """Name of the run of a preset."""
    return f"fused:{preset}"


def mixes(signals: Collection[Signal], presets: Mapping[str, Weights], given: Weights | None) -> dict[str, Mix]:
    """The runs that are weighted sums: of one signal, and where there are more, of all.

    A preset that gives every signal here weight 0 is left out. Raises UsageError if the given weights do.
    """
    runs: dict[str, Mix] = {signal.value: {signal: 1.0} for signal in Signal if signal in signals}
    if len(signals) > 1:
        for name, weights in presets.items():
            if any(weights.of(signal) for signal in signals):
                runs[fused(name)] = weights.normalised(signals)
    if given is not None:
        runs[GIVEN] = given.normalised(signals)
    return runs


def parse_weights(text: str) -> Weights:
    """`dense=1,lexical=.3,multi=1`; a signal that is not named has weight 0. Raises UsageError."""
    values = dict.fromkeys((signal.value for signal in Signal), 0.0)
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in values:
            raise UsageError(f"--weights {name[:40]!r}: no such signal", did_you_mean(name, values))
        try:
            values[name] = float(number)
        except ValueError:
            problem = f"{number[:40]!r} is no number" if equals else "it has no weight"
            raise UsageError(f"--weights {name}: {problem}", "write them like dense=1,lexical=0.3,multi=1") from None
    return Weights(values["dense"], values["lexical"], values["multi"])
