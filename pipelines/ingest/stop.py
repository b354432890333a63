"""Stopping a run in order: a signal sets a flag, the running unit finishes, what is finished is committed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


class Stopping(Protocol):
    """Whether a run is to stop; the steps look at it between units."""

    def __bool__(self) -> bool: ...

    def set(self, name: str | None = None) -> None:
        """Ask for it."""


class StopFlag:
    """Set once, by a signal or by the first failure; the steps of a run look at it between units."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._told = False
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self, name: str | None = None) -> None:
        """Ask the run to stop; `name` is the signal that asked."""
        self.signal = self.signal or name
        self._event.set()

    def announce(self, say: Callable[[str], None]) -> None:
        """Say once which signal asked, in a moment when saying is safe: a signal's handler is not."""
        if self.signal and not self._told:
            self._told = True
            say(self.signal)


@contextmanager
def stopping_on_signals(stop: StopFlag) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` while this is entered; a second SIGINT interrupts at once.

    Outside the main thread Python offers no handlers: then signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stop.set(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
