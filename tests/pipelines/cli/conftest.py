from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


M3 = Callable[..., Ended]


@pytest.fixture
def m3(capsys: pytest.CaptureFixture[str]) -> M3:
    """Run `m3` in this process."""

    def run(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, no configuration in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("M3_CONFIG", raising=False)
    return tmp_path
