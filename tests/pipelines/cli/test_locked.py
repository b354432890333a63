"""`--if-locked skip` is for another writer at work, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.protocol import StaleWriterError
from m3core.errors import LockedError, M3Error
from pipelines.cli.locked import SKIP, unless_locked
from pipelines.state.lease import HeldError, acquire_lease
from pipelines.state.paths import StatePaths


def test_another_run_at_work_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = StatePaths.of(tmp_path, "notes")
    paths.root.mkdir(parents=True)
    with acquire_lease(paths):
        assert unless_locked(SKIP, lambda: acquire_lease(paths), as_json=False) is None
        assert capsys.readouterr().out.startswith("skipped: collection notes is being written by pid ")
        with pytest.raises(HeldError):
            unless_locked("fail", lambda: acquire_lease(paths), as_json=False)


@pytest.mark.parametrize(
    "error", [LockedError("the lease was lost to pid 7"), StaleWriterError("later rows", "m3 repair")]
)
def test_what_a_person_has_to_see_is_not(error: M3Error) -> None:
    def run() -> None:
        raise error

    with pytest.raises(type(error)):
        unless_locked(SKIP, run, as_json=False)
