"""The one form of time in the state folder: ISO 8601, UTC, microseconds, `2030-01-31T23:59:59.000000Z`.

Such stamps sort as text. They come from the wall clock of the machine that writes them; nothing but the lease compares
stamps of two machines, so machines that share a state folder need clocks that agree to within a few seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime

_FORM = "%Y-%m-%dT%H:%M:%S.%fZ"


def stamp(seconds: float) -> str:
    """The stamp of a POSIX time."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_FORM)


def utc_now() -> str:
    """The stamp of this moment."""
    return datetime.now(UTC).strftime(_FORM)


def seconds_of(text: str) -> float:
    """POSIX time of a stamp; ValueError if it is none."""
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC).timestamp()
