"""Reading ahead: all files, once, only where there is room, and not for longer than it is wanted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from connectors.snapshots import readahead
from connectors.snapshots.readahead import ReadAhead


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b", "deep/c"):
        (tmp_path / name).write_bytes(b"x" * 3_000_000)
    return tmp_path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read to their end or until it was stopped."""
    done: list[Path] = []
    original = ReadAhead._read

    def reading(self: ReadAhead, path: Path, buffer: bytearray) -> None:
        original(self, path, buffer)
        done.append(path)

    monkeypatch.setattr(ReadAhead, "_read", reading)
    return done


def finished(ahead: ReadAhead) -> None:
    ahead._thread.join(timeout=30)
    assert not ahead._thread.is_alive()
    ahead.stop()


def test_every_file_is_read_once(folder: Path, read: list[Path]) -> None:
    finished(ReadAhead(folder))
    assert read == [folder / "a", folder / "deep" / "b", folder / "deep" / "c"]


def test_what_is_larger_than_half_of_the_free_memory_stays_on_disk(
    folder: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "_free_memory", lambda: 16_000_000)
    finished(ReadAhead(folder))
    assert read == []


def test_the_free_memory_is_what_the_system_says() -> None:
    assert 1 << 20 < readahead._free_memory() < 1 << 50


def test_stopping_does_not_wait_for_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "endless").open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    ahead = ReadAhead(folder)
    time.sleep(0.05)
    ahead.stop()
    ahead.stop()
    assert time.monotonic() - started < 20


def test_a_folder_that_goes_away_ends_it(tmp_path: Path, read: list[Path]) -> None:
    finished(ReadAhead(tmp_path / "gone"))
    assert read == []
