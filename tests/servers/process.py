"""A server process of the tests: started on loopback with a log of its own, waited for, stopped by its id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

_GRACE_SECONDS = 20.0
_LOG_SHOWN = 4000


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on; distinct, because all are held while they are chosen."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def freeze(pid: int) -> None:
    """Stop a process by SIGSTOP; when it returns, all of its threads stand still."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + _GRACE_SECONDS
    while not all(state_of(task) == "T" for task in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} has not stopped")
        time.sleep(0.005)


def state_of(task: Path) -> str:
    """The state of a process or thread, T if it was stopped, from its folder in /proc."""
    # After the name, which is in brackets and may hold anything.
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


@dataclass
class ServerProcess:
    """One running server."""

    command: Sequence[str]
    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> ServerProcess:
        """Start `command` in `folder`; its output goes to `folder/log`."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        return cls(command, folder, process)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return when `ready()` is true. Raises RuntimeError with the end of the log if it dies or takes longer."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.command[0]} ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.command[0]} did not answer within {seconds:g} s:\n{self.log()}")
            time.sleep(0.1)

    def log(self) -> str:
        """The end of what it printed."""
        return (self.folder / "log").read_text("utf-8", "replace")[-_LOG_SHOWN:]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It stands still for as long as entered."""
        freeze(self.process.pid)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and end it if it does not; idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
