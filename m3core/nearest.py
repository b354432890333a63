"""The name that was probably meant, for errors about unknown names."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None if none is close. Case, `-` and `_` do not count as differences."""
    from difflib import get_close_matches

    folded = {_fold(candidate): candidate for candidate in known}
    found = get_close_matches(_fold(name), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    guess = nearest(name, names)
    if guess is not None:
        return f'did you mean "{guess}"?'
    return f"use one of {', '.join(names)}" if names else "leave it out"


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")
