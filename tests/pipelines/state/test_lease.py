from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from m3core.errors import ExitCode, LockedError, StateError
from pipelines.state import lease as module
from pipelines.state.cell import FileCell
from pipelines.state.clock import stamp
from pipelines.state.lease import LeaseRecord, acquire_lease
from pipelines.state.paths import StatePaths
from pipelines.state.process import this_process
from tests.servers.process import freeze

Start = Callable[..., "subprocess.Popen[str]"]
HOLD = """
    import sys, time
    from pathlib import Path
    from m3core.errors import LockedError
    from pipelines.state.lease import acquire_lease
    from pipelines.state.paths import StatePaths
    sys.stdin.readline()
    try:
        lease = acquire_lease(StatePaths(Path(sys.argv[1])), ttl=float(sys.argv[2]))
    except LockedError:
        print("locked", flush=True)
        raise SystemExit
    print("held", flush=True)
    while True:
        time.sleep(0.02)
        try:
            lease.check()
        except LockedError as error:
            print("lost", error, flush=True)
            break
"""


def hold(start: Start, paths: StatePaths, ttl: float) -> subprocess.Popen[str]:
    process = start(HOLD, paths.root, ttl)
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    return process


def written(paths: StatePaths) -> LeaseRecord:
    current = FileCell(paths.lease_file).read()
    assert current
    return module._decode(current[0], paths)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def put(paths: StatePaths, record: LeaseRecord) -> None:
    cell = FileCell(paths.lease_file)
    current = cell.read()
    cell.replace(module._encode(record), current and current[1])


def foreign(expires: float) -> LeaseRecord:
    owner = replace(this_process(), host="far-away", machine="another", pid=1)
    now = stamp(time.time())
    return LeaseRecord(True, owner, "0" * 32, now, now, stamp(time.time() + expires))


def test_one_after_the_other(paths: StatePaths) -> None:
    with acquire_lease(paths) as first:
        first.check()
    with pytest.raises(LockedError, match="released"):
        first.check()
    with acquire_lease(paths) as second:
        second.check()
        assert second.record.token != first.record.token
    assert not written(paths).held


def test_a_second_writer_is_told_who_since_when_and_what_to_do(paths: StatePaths) -> None:
    with acquire_lease(paths) as lease, pytest.raises(LockedError) as caught:
        acquire_lease(paths)
    message = caught.value.message
    assert f"collection handbook is being written by pid {os.getpid()} on {socket.gethostname()}" in message
    assert f"since {lease.record.acquired}" in message
    assert "its lease runs until 20" in message
    assert "wait for that run or stop it" in caught.value.remedy
    assert caught.value.exit_code == ExitCode.LOCKED


def test_of_processes_that_race_exactly_one_wins(paths: StatePaths, start: Start) -> None:
    for _ in range(2):
        racers = [start(HOLD, paths.root, 30) for _ in range(4)]
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("\n")
            racer.stdin.flush()
        said = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
        assert sorted(said) == ["held", "locked", "locked", "locked"]
        for racer in racers:
            racer.kill()
            racer.wait()


def test_a_killed_holder_is_replaced_at_once(paths: StatePaths, start: Start) -> None:
    holder = hold(start, paths, ttl=300)
    with pytest.raises(LockedError, match=f"pid {holder.pid}"):
        acquire_lease(paths)
    holder.kill()
    holder.wait()
    before = time.monotonic()
    with acquire_lease(paths) as lease:
        lease.check()
    assert time.monotonic() - before < 60, "nobody waits for the expiry"


def test_a_paused_holder_loses_the_lease_and_notices_before_it_writes_on(paths: StatePaths, start: Start) -> None:
    holder = hold(start, paths, ttl=0.6)
    freeze(holder.pid)
    with acquire_lease(paths, wait=60) as lease:
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.stdout
        said = holder.stdout.readline()
        assert said.startswith("lost the lease of collection handbook was lost to pid " + str(os.getpid()))
        lease.check()


def test_a_paused_holder_that_nobody_replaced_goes_on(paths: StatePaths, start: Start) -> None:
    holder = hold(start, paths, ttl=1.0)
    freeze(holder.pid)
    time.sleep(1.1)
    expired = written(paths).expires
    os.kill(holder.pid, signal.SIGCONT)
    wait_for(lambda: written(paths).expires > expired)
    assert holder.poll() is None
    with pytest.raises(LockedError):
        acquire_lease(paths)


def test_it_is_renewed_while_it_is_held(paths: StatePaths) -> None:
    with acquire_lease(paths, ttl=1.0) as lease:
        first = written(paths).expires
        wait_for(lambda: written(paths).expires > first)
        lease.check()
        assert written(paths).token == lease.record.token


def test_a_lease_of_another_machine_is_left_alone_until_it_expires(paths: StatePaths) -> None:
    put(paths, foreign(expires=1.5))
    with pytest.raises(LockedError, match="far-away"):
        acquire_lease(paths)
    with acquire_lease(paths, wait=60) as lease:
        lease.check()


def test_a_clock_that_was_set_back_does_not_prolong_a_lease(paths: StatePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = acquire_lease(paths, ttl=600)
    put(paths, foreign(expires=60))
    lease.check()  # nothing is asked while the lease runs by both clocks
    monkeypatch.setattr(module, "_steady", lambda: time.monotonic() + 1e6)
    an_hour_ago = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)
    with pytest.raises(LockedError, match="lost to pid 1 on far-away"):
        lease.check()
    with pytest.raises(LockedError, match="lost"):
        lease.renew()
    lease.release()
    assert written(paths).owner.host == "far-away", "releasing a lost lease changes nothing"


def test_a_damaged_lease_is_an_error_and_nobody_takes_it(paths: StatePaths) -> None:
    put(paths, foreign(expires=60))
    paths.lease_file.write_text(paths.lease_file.read_text().replace("far-away", "far-awax"))
    with pytest.raises(StateError, match=r"lease\.json is damaged"):
        acquire_lease(paths)
