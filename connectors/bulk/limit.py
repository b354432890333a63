"""How many requests of one store may be on their way at once: as many as it answers without becoming much slower."""

from __future__ import annotations

from dataclasses import dataclass, field

# How much slower than alone an answer may be before it counts as a sign of waiting in the store.
_TOLERANCE = 2.0
_SMOOTHING = 0.2
_OF_ALONE = 0.3
_PROBE = 256


@dataclass
class AdaptiveLimit:
    """Between 1 and `most`; begins at 1 and lasts as long as its store is open.

    It grows by one with every answer while it is used to the full, and from the first sign that it is enough by a fifth
    ("slow start" of TCP). It shrinks by half where the store says that it is overloaded (429), once for all requests
    that were on their way together, and bit by bit where rows take longer than those of a request that has the store
    for itself ("Gradient" of Netflix's concurrency-limits). Every 256 answers it begins anew with 1, so that what is
    usual is measured without a crowd of our own.
    """

    most: int = 4
    _value: float = field(default=1.0, init=False)
    # Seconds per row of requests that were alone.
    _alone: float = field(default=0.0, init=False)
    _answers: int = field(default=0, init=False)
    _growth: float = field(default=1.0, init=False)
    # Counts the cuts: what was on its way when one was made does not cause another.
    _cuts: int = field(default=0, init=False)

    @property
    def now(self) -> int:
        """Requests that may be on their way."""
        return int(self._value)

    def enter(self) -> int:
        """A request begins; what it got is for `overloaded`."""
        return self._cuts

    def answered(self, seconds_per_row: float, flying: int) -> None:
        """A request was carried out while `flying` were on their way, itself among them."""
        self._answers += 1
        if flying == 1:
            self._alone += (_OF_ALONE if self._alone else 1.0) * (seconds_per_row - self._alone)
        if self._answers % _PROBE == 0:
            self._value = 1.0
            return
        gradient = min(1.0, max(0.5, _TOLERANCE * self._alone / max(seconds_per_row, 1e-9)))
        if flying > 1 and self._alone and gradient < 1.0:
            self._growth = _SMOOTHING
            self._set(self._value * (1 - _SMOOTHING + _SMOOTHING * gradient))
        elif flying >= self.now:
            self._set(self._value + self._growth)

    def overloaded(self, entered: int) -> None:
        """A request that got `entered` met a store that had too much to do."""
        if entered == self._cuts:
            self._cuts += 1
            self._growth = _SMOOTHING
            self._set(self._value / 2)

    def _set(self, value: float) -> None:
        self._value = min(float(self.most), max(1.0, value))
