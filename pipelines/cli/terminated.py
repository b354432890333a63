"""What SIGTERM does to a command that writes a file or folder: it ends with 143 and leaves nothing half written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from m3core.errors import ExitCode


@contextmanager
def cleaning_up_on_sigterm() -> Iterator[None]:
    """While this is entered, SIGTERM unwinds the command like an error, so that temporary files go.

    Outside the main thread Python offers no handlers: then the signal stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(int(ExitCode.TERMINATED))

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
