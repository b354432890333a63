"""The bounds of a range as stores take them: one on each side at most."""

from __future__ import annotations

from dataclasses import replace

from connectors.filters.tree import Between


def tightest(where: Between) -> Between:
    """The same range with one bound a side: of two, stores look at one only, and not always at the tighter."""
    if where.gt is not None and where.gte is not None:
        where = replace(where, gt=None) if where.gte > where.gt else replace(where, gte=None)
    if where.lt is not None and where.lte is not None:
        where = replace(where, lt=None) if where.lte < where.lt else replace(where, lte=None)
    return where
