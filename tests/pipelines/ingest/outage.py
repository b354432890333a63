"""Memory stores that can be switched off, and what they were asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from connectors.memory.sink import MemorySink
from m3core.errors import StoreError

EDGE_AND_TWO = {
    "main": {"kind": "qdrant-edge", "signals": ["dense"]},
    "rerank": {"kind": "memory", "signals": ["multi"], "text": False},
    "words": {"kind": "memory", "signals": ["lexical"], "text": False},
}
TWO = {
    "main": {"kind": "memory", "signals": ["dense", "multi"]},
    "words": {"kind": "memory", "signals": ["lexical"], "text": False},
}
_ASKED = ("ensure", "write", "delete", "patch", "count", "flush")


@dataclass
class Switchboard:
    """`down` stores fail at every request. `failing(store, request, nth)` may make a single request the last one."""

    down: set[str] = field(default_factory=set)
    failing: Callable[[str, str, int], bool] = field(default=lambda store, request, nth: False)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)

    def check(self, store: str, request: str) -> None:
        """StoreError if the store is off, or goes off now."""
        self.asked[store, request] += 1
        if self.failing(store, request, self.asked[store, request]):
            self.down.add(store)
        if store in self.down:
            raise StoreError(f"store {store!r} is switched off", "switch it on")

    def requests(self, store: str) -> int:
        """How often the store was asked for anything."""
        return sum(count for (name, _), count in self.asked.items() if name == store)

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch) -> Switchboard:
        """Put one in front of all memory stores."""
        board = cls()
        for name in _ASKED:
            monkeypatch.setattr(MemorySink, name, board._guarded(name))
        return board

    def _guarded(self, name: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(MemorySink, name)

        def guarded(sink: MemorySink, *args: Any) -> Any:
            self.check(sink._options.name, name)
            return original(sink, *args)

        return guarded
