"""Peak anonymous memory of this process: what a run really needs, file-backed pages (memory-mapped weights) aside."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_SAMPLE_SECONDS = 0.2


def anonymous_bytes() -> int | None:
    """Anonymous resident memory right now; None on systems without /proc."""
    try:
        text = _STATUS.read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


def _peak_resident_bytes() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


class MemoryPeak:
    """Samples the process's anonymous memory in the background while it is entered."""

    def __init__(self) -> None:
        self._peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> MemoryPeak:
        if self._sample():
            self._thread = threading.Thread(target=self._watch, name="m3-memory", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def kind(self) -> str:
        """What `bytes` measures: `anonymous`, or `resident` on systems without /proc."""
        return "anonymous" if self._peak else "resident"

    def bytes(self) -> int:
        """The highest sample so far; without /proc the process's peak resident size."""
        self._sample()
        return self._peak or _peak_resident_bytes()

    def _sample(self) -> bool:
        now = anonymous_bytes()
        if now is None:
            return False
        self._peak = max(self._peak, now)
        return True

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._sample()
