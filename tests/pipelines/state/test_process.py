from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.state import process
from pipelines.state.process import ProcessId, this_process


def id_of(pid: int) -> ProcessId:
    return replace(this_process(), pid=pid, started=process._start_time(pid) or "")


def test_this_process_lives() -> None:
    assert not this_process().is_dead()


def test_a_killed_process_is_dead_before_its_parent_looks_and_after() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = id_of(child.pid)
    assert not identity.is_dead()
    child.kill()
    for _ in range(100):
        if identity.is_dead():
            break
        time.sleep(0.02)
    assert identity.is_dead(), "a zombie counts as dead"
    child.communicate()
    assert identity.is_dead()


def test_a_reused_pid_is_not_mistaken_for_its_first_owner() -> None:
    assert replace(this_process(), started="12").is_dead()


def test_nobody_is_judged_dead_from_another_machine_or_container() -> None:
    assert not replace(this_process(), machine="elsewhere", started="12").is_dead()


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="this system has no /bin/ps")
def test_ps_tells_what_is_used_where_there_is_no_proc() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process._start_time_ps(child.pid)
    assert started
    assert process._start_time_ps(child.pid) == started
    child.kill()
    child.communicate()
    assert process._start_time_ps(child.pid) is None
