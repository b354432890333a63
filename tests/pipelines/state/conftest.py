"""What the tests of the state folder share: a folder, a loose umask, and processes to race and to kill."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pipelines
from pipelines.state.paths import StatePaths

ROOT = Path(pipelines.__file__).resolve().parents[1]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    """State folder of the collection `handbook`; nothing is there yet."""
    return StatePaths.of(tmp_path / "data", "handbook")


@pytest.fixture
def umask_0() -> Iterator[None]:
    """The loosest umask there is."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code in a process of its own, with arguments; killed at the end of the test."""
    running: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def modes() -> Callable[[Path], set[tuple[str, str]]]:
    """Kinds and modes of everything below a folder."""

    def collect(root: Path) -> set[tuple[str, str]]:
        kinds = {True: "folder", False: "file"}
        return {(kinds[path.is_dir()], oct(path.stat().st_mode & 0o7777)) for path in [root, *root.rglob("*")]}

    return collect


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can only be mounted by root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
