"""Room on a disk, asked for and lacking."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from m3core.disk import DiskUsage, disk_full, free_bytes, require_free, says_full, scarce
from m3core.errors import DiskFullError


@pytest.mark.parametrize(
    ("number", "full"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EFBIG, True), (errno.EACCES, False), (errno.EIO, False)],
)
def test_what_the_system_says(number: int, full: bool) -> None:
    assert says_full(OSError(number, "said so")) is full


def test_the_error_names_what_was_written_and_a_folder_that_is_there(tmp_path: Path) -> None:
    error = disk_full(tmp_path / "not" / "there" / "yet")
    assert error.message.startswith(f"{tmp_path}/not/there/yet could not be written: no space left (")
    assert error.remedy.startswith(f"free space on the file system of {tmp_path}, or move storage.path")


def test_room_is_asked_for_before_it_is_needed(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not there") == pytest.approx(shutil.disk_usage(tmp_path).free, abs=1 << 30)
    require_free(tmp_path / "not there", 1)
    with pytest.raises(DiskFullError, match=r"MiB are free and 1152921504606 MiB are needed"):
        require_free(tmp_path, 1152921504606 << 20)


@pytest.mark.parametrize(("free", "said"), [(10 << 20, ""), ((10 << 20) - 1, "10%"), (3 << 20, "3%"), (0, "0%")])
def test_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, said: str) -> None:
    monkeypatch.setattr("m3core.disk.disk_usage", lambda path: DiskUsage(free, 100 << 20))
    line = scarce(tmp_path / "not there")
    assert line.startswith(f"{said} of the disk of {tmp_path} is free" if said else "")
    assert bool(line) == bool(said)
