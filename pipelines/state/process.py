"""Who a process is, so that a dead writer can be told from a living one, and a reused pid from its first owner."""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_GONE = ("Z", "X")  # a zombie has ended; only its parent has not looked yet


@dataclass(frozen=True)
class ProcessId:
    """One process. Two processes are the same only if all four agree.

    `machine` names one boot of one machine and, on Linux, one pid namespace: containers that share a host name and a
    disk do not see each other's pids and must not judge each other dead. `started` is the process's start time in the
    system's own form, compared as text only.
    """

    host: str
    machine: str
    pid: int
    started: str

    def is_dead(self) -> bool:
        """True if this process certainly ended: same machine, and no such process with that start time. Otherwise
        False, also where nobody here can know."""
        return self.machine == _machine() and _start_time(self.pid) != self.started


def this_process() -> ProcessId:
    """The calling process."""
    pid = os.getpid()
    return ProcessId(socket.gethostname(), _machine(), pid, _start_time(pid) or "")


@cache
def _machine() -> str:
    host = socket.gethostname()
    if not (_PROC / "self" / "stat").exists():
        return f"{host} {uuid.getnode():012x}"
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{host} {boot} {(_PROC / 'self/ns/pid').stat().st_ino}"


def _start_time(pid: int) -> str | None:
    """None if there is no such process (any more)."""
    return _start_time_proc(pid) if (_PROC / "self" / "stat").exists() else _start_time_ps(pid)


def _start_time_proc(pid: int) -> str | None:
    try:
        line = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line[line.rindex(")") + 2 :].split()  # the name in parentheses may hold spaces
    return None if fields[0] in _GONE else fields[19]


def _start_time_ps(pid: int) -> str | None:
    answer = subprocess.run(  # noqa: S603 - a fixed command and a number
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return started.strip() if state and state[0] not in _GONE else None
