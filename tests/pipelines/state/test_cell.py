from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from m3core.errors import LockedError
from pipelines.state.cell import CellConflictError, FileCell

COUNT = """
    import sys
    from pathlib import Path
    from pipelines.state.cell import CellConflictError, FileCell
    cell, done = FileCell(Path(sys.argv[1])), 0
    while done < 25:
        current = cell.read()
        value, version = current or (b"0", None)
        try:
            cell.replace(str(int(value) + 1).encode(), version)
            done += 1
        except CellConflictError:
            pass
"""


def test_a_cell_is_replaced_only_from_the_version_that_was_read(tmp_path: Path) -> None:
    cell = FileCell(tmp_path / "new" / "cell")
    assert cell.read() is None
    first = cell.replace(b"1", None)
    assert cell.read() == (b"1", first)
    second = cell.replace(b"2", first)
    for stale in (first, None):
        with pytest.raises(CellConflictError):
            cell.replace(b"3", stale)
    assert cell.read() == (b"2", second)


def test_a_process_that_holds_the_lock_and_does_not_move_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = FileCell(tmp_path / "cell")
    version = cell.replace(b"1", None)
    monkeypatch.setattr("pipelines.state.cell._PATIENCE_SECONDS", 0.1)
    with (tmp_path / "cell.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match=r"cell\.lock: another process holds it and has not moved for 0\.1 s"):
            cell.replace(b"2", version)
    assert cell.read() == (b"1", version)
    cell.replace(b"2", version)


def test_of_many_processes_none_loses_an_update(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    file = tmp_path / "cell"
    processes = [start(COUNT, file) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert file.read_bytes() == b"100"
