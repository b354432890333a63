"""When two texts count as the same."""

from __future__ import annotations


def folded(text: str) -> str:
    """A text as it is compared: spaces and line ends do not matter."""
    return " ".join(text.split())
