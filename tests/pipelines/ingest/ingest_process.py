"""One ingest in a process of its own, which may send itself a signal at a chosen point.

Processes are forked from a server that has imported what a run needs, so that a run starts in an instant.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from m3core.config.model import Config
from pipelines.ingest import running
from pipelines.ingest.progress import Lines
from pipelines.ingest.replay import load_waiting
from pipelines.ingest.run import IngestOptions, ingest
from pipelines.state.cell import FileCell
from pipelines.state.lease import DEFAULT_TTL, acquire_lease
from tests.servers.process import state_of

_PRELOADED = (
    "connectors.qdrant.edge.sink",
    "m3core.encoder",
    "pipelines.ingest.graph",
    "pipelines.ingest.replay",
    "pipelines.ingest.run",
    "tests.pipelines.ingest.ingest_process",
)


@dataclass(frozen=True)
class IngestProcess:
    """A started run; what it says goes to files beside the project."""

    process: BaseProcess
    folder: Path

    @classmethod
    def start(
        cls,
        raw_config: dict[str, Any],
        base: Path,
        point: str = "",
        command: str = "ingest",
        lease_seconds: float = DEFAULT_TTL,
    ) -> IngestProcess:
        """Start a run. `point` is `module:Class.function:before|after:n:SIGNAL`, around the n-th call; `command` is
        ingest, embed, build or load."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        process = context.Process(target=_run, args=(raw_config, base, point, command, lease_seconds))
        process.start()
        return cls(process, base)

    def wait_until_stopped(self, seconds: float) -> None:
        """Until SIGSTOP has taken effect."""
        deadline = time.monotonic() + seconds
        while state_of(Path(f"/proc/{self.process.pid}")) != "T":
            if not self.process.is_alive() or time.monotonic() > deadline:
                raise TimeoutError(f"the run did not stop itself within {seconds} s: {self.said}")
            time.sleep(0.02)

    def go_on(self) -> None:
        """After SIGSTOP."""
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGCONT)

    def wait(self, seconds: float) -> int:
        """The exit code; minus the signal's number if one ended it."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(f"the run did not end in {seconds} s: {self.said}")
        return code

    @property
    def said(self) -> str:
        """Its standard error."""
        return (self.folder / "stderr").read_text()

    @property
    def report(self) -> dict[str, Any]:
        """Its report."""
        return dict(json.loads((self.folder / "report.json").read_text()))


def _run(raw_config: dict[str, Any], base: Path, point: str, command: str, lease_seconds: float) -> None:
    running.acquire_lease = functools.partial(acquire_lease, ttl=lease_seconds)  # type: ignore[assignment]
    with (base / "stderr").open("w") as stderr:
        os.dup2(stderr.fileno(), 2)
    if point:
        signal_at(point)
    config, progress = Config.model_validate(raw_config), Lines(sys.stderr)
    if command == "load":
        report = load_waiting(config, base, progress)
    else:
        report = ingest(
            config, base, progress, options=IngestOptions(load=command != "embed", build=command == "build")
        )
    (base / "report.json").write_text(json.dumps(report.as_json()))
    sys.exit(int(report.exit_code))


def signal_at(point: str) -> None:
    """Arrange for the signal: SIGKILL makes the n-th call the last thing that this process does."""
    module_name, place, when, number, name_of_signal = point.split(":")
    sent = signal.Signals[name_of_signal]
    module = importlib.import_module(module_name)
    owner_name, _, name = place.rpartition(".")
    owner: Any = getattr(module, owner_name) if owner_name else module
    original = getattr(owner, name)
    free = _stop_outside_cells() if sent is signal.SIGSTOP else nullcontext()
    calls = 0

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if when == "before" and calls == int(number):
            with free:
                os.kill(os.getpid(), sent)
        result = original(*args, **kwargs)
        if when == "after" and calls == int(number):
            with free:
                os.kill(os.getpid(), sent)
        return result

    setattr(owner, name, watched)


def _stop_outside_cells() -> threading.Lock:
    """A lock that every compare-and-swap of this process takes: it must not be stopped within one, as it would hold the
    file's lock."""
    free, replace = threading.Lock(), FileCell.replace

    def replaced(cell: FileCell, value: bytes, expected: str | None) -> str:
        with free:
            return replace(cell, value, expected)

    FileCell.replace = replaced  # type: ignore[method-assign]
    return free
