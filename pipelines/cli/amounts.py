"""Sizes and times as people read them."""

from __future__ import annotations

_STEPS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size_text(count: float) -> str:
    """`3.4 GB`, `512 B`; steps of a thousand."""
    for step, unit in _STEPS:
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"


def moment(stamp: str) -> str:
    """`2030-01-31 23:59` of a stamp (UTC); empty if there is none."""
    return stamp[:16].replace("T", " ")
