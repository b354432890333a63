"""What the steps of a run share, and the failures they hand over."""

from __future__ import annotations

import errno

import pytest

from m3core.errors import DiskFullError, StoreError
from pipelines.ingest.shared import disk_full, shared_by


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("IO Error: Could not write file: No space left on device"),
    ],
)
def test_a_full_disk_is_known_by_number_and_by_words(error: Exception) -> None:
    found = disk_full(error)
    assert found is not None
    assert "committed" in found.message


def test_other_errors_are_not_a_full_disk() -> None:
    assert disk_full(OSError(errno.EACCES, "Permission denied")) is None
    assert disk_full(StoreError("busy")) is None
    said = DiskFullError("12 MiB are free and 256 MiB are needed")
    assert disk_full(said) is said


def test_outside_a_run_nothing_is_shared() -> None:
    with pytest.raises(KeyError):
        shared_by("no run")
