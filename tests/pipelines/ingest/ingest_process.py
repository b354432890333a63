"""One ingest in a process of its own, which may send itself a signal: `ingest_process.py PROJECT [POINT]`.

POINT is `module:Class.function:before|after:n:SIGNAL`: the signal comes before or after the n-th call.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from m3core.config.model import Config
from pipelines.ingest.progress import Lines
from pipelines.ingest.run import ingest


def main() -> int:
    """Run and print the report."""
    described = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 2:
        signal_at(sys.argv[2])
    report = ingest(Config.model_validate(described["config"]), Path(described["base"]), Lines(sys.stderr))
    print(json.dumps(report.as_json()))
    return int(report.exit_code)


def signal_at(point: str) -> None:
    """Arrange for the signal: SIGKILL makes the n-th call the last thing that this process does."""
    module_name, place, when, number, name_of_signal = point.split(":")
    sent = signal.Signals[name_of_signal]
    module = importlib.import_module(module_name)
    owner_name, _, name = place.rpartition(".")
    owner: Any = getattr(module, owner_name) if owner_name else module
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if when == "before" and calls == int(number):
            os.kill(os.getpid(), sent)
        result = original(*args, **kwargs)
        if when == "after" and calls == int(number):
            os.kill(os.getpid(), sent)
        return result

    setattr(owner, name, watched)


if __name__ == "__main__":
    sys.exit(main())
