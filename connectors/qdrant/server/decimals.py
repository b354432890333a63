"""Half-precision numbers in few digits: five name every one of them, the exact decimal of one has up to 25."""

from __future__ import annotations

import numpy as np

from m3core.types import Float16Array, Float64Array

_DIGITS = 5


def short_decimals(values: Float16Array) -> Float64Array:
    """The same numbers `[...]` rounded to five significant digits, each still nearest to its float16 alone.

    11 bits of significand need `ceil(1 + 11 log10 2) = 5` digits (D. Matula, "In-and-out conversions", 1968).
    """
    exact = values.astype(np.float64)
    nonzero = np.where(exact == 0, 1.0, np.abs(exact))
    scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(nonzero)))
    rounded: Float64Array = np.round(exact * scale) / scale
    return rounded
