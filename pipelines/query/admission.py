"""How many searches run at once. Beyond that a search is refused at once: a queue that grows helps nobody.

There is no waiting room besides the running searches themselves, which wait for the model and for stores under their
deadlines. A tenant may hold a share of the places only, so that one in a frenzy leaves room for the others.

How many are good for a machine is learnt, as TCP learns it: a search that takes longer than `slow` takes a fifth of the
places away, once for all that ran beside it; searches in time bring them back, one place for as many as there are.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from m3core.errors import UsageError
from pipelines.query.errors import OverloadedError, TenantBusyError

# What is left of the places after a slow search, and how many are left at least.
_SHRUNK, _LEAST = 0.8, 2
# Weight of the newest search in the mean duration.
_NEWEST = 0.1


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """Most searches at once, the share of them that one tenant may hold, and the seconds from which a search is slow.

    Raises UsageError if out of bounds.
    """

    searches: int = 64
    tenant_share: float = 0.5
    slow: float = math.inf

    def __post_init__(self) -> None:
        if self.searches < 1:
            raise UsageError(f"searches {self.searches}: at least one must be let in", "give 1 or more")
        if not 0 < self.tenant_share <= 1:
            raise UsageError(f"tenant_share {self.tenant_share}: it must lie above 0 and up to 1", "0.5, for example")


@dataclass
class Held:
    """A place that is held. `aside` are seconds that say nothing about how many searches are good."""

    aside: float = 0.0


@dataclass
class Admission:
    """Counts the running searches. For one event loop; `clock` counts seconds."""

    rules: AdmissionRules = field(default_factory=AdmissionRules)
    clock: Callable[[], float] = time.monotonic
    _running: Counter[str] = field(default_factory=Counter)
    _seconds: float = 0.0
    # Places that slow searches took away; and when the last one did.
    _taken: float = 0.0
    _shrunk: float = -math.inf

    @property
    def places(self) -> int:
        """Searches that are let in at once, as far as is known now."""
        return math.floor(self.rules.searches - self._taken)

    @property
    def per_tenant(self) -> int:
        """Most searches at once of one tenant, at least one."""
        return max(1, math.floor(self.places * self.rules.tenant_share))

    @property
    def running(self) -> int:
        """Searches that hold a place now."""
        return self._running.total()

    @contextmanager
    def place(self, tenant: str) -> Iterator[Held]:
        """Hold a place while the block runs. Raises OverloadedError, TenantBusyError."""
        if self.running >= self.places:
            raise OverloadedError(
                f"{self.running} searches are running, as many as are let in", "search again later", self._retry_after()
            )
        if self._running[tenant] >= self.per_tenant:
            raise TenantBusyError(
                f"this tenant has {self._running[tenant]} searches running, its share of {self.places}",
                "search again later, or fewer at once",
                self._retry_after(),
            )
        self._running[tenant] += 1
        began, answered, held = self.clock(), False, Held()
        try:
            yield held
            answered = True
        finally:
            self._learn(began, self.clock() - held.aside, answered)
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    def _learn(self, began: float, ended: float, answered: bool) -> None:
        seconds, places = ended - began, self.rules.searches - self._taken
        if seconds < self.rules.slow:
            # What fails at once says nothing about how many can be answered.
            self._taken = max(0.0, self._taken - answered / places)
        elif began >= self._shrunk:
            # The others that ran then are slow for the same reason.
            self._taken = self.rules.searches - max(min(_LEAST, self.rules.searches), _SHRUNK * places)
            self._shrunk = ended
        self._seconds = seconds if not self._seconds else (1 - _NEWEST) * self._seconds + _NEWEST * seconds

    def _retry_after(self) -> float:
        """Whole seconds after which about as many searches as run now are over."""
        return float(max(1, math.ceil(self._seconds)))
