"""How good one ranking is: pure functions over ids, best first."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def recall_at(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """|first k of ranking ∩ relevant| / |relevant|; `relevant` is not empty."""
    wanted = set(relevant)
    return len(wanted & set(ranking[:k])) / len(wanted)


def reciprocal_rank(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """1 / rank (from 1) of the first relevant id; 0.0 if there is none."""
    wanted = set(relevant)
    return next((1.0 / rank for rank, doc_id in enumerate(ranking, start=1) if doc_id in wanted), 0.0)
