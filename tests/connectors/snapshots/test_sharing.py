"""Readers' copies share the files that nobody writes to with the snapshot, where the file system can."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.disk import allocated_bytes
from m3core.errors import DiskFullError, StoreError

SHARED = ("chunk_*.mmap",)
LARGE = 1 << 20


@pytest.fixture
def chain(tmp_path: Path) -> SnapshotChain:
    found = SnapshotChain(tmp_path / "g00001", SHARED)
    publish(found, b"1")
    return found


def publish(chain: SnapshotChain, byte: bytes) -> None:
    working = chain.begin(0)
    (working / "chunk_0.mmap").write_bytes(byte * LARGE)
    (working / "flags.dat").write_bytes(byte)
    chain.publish()


def test_a_copy_shares_only_what_it_may(chain: SnapshotChain) -> None:
    published = chain.current_folder()
    assert published is not None
    with chain.open_copy() as first, chain.open_copy() as second:
        for copy in (first, second):
            assert (copy.path / "chunk_0.mmap").samefile(published / "chunk_0.mmap")
            assert not (copy.path / "flags.dat").samefile(published / "flags.dat")
        (first.path / "flags.dat").write_bytes(b"changed")
        assert (second.path / "flags.dat").read_bytes() == (published / "flags.dat").read_bytes() == b"1"


def test_a_working_copy_shares_nothing(chain: SnapshotChain) -> None:
    with chain.open_copy() as copy:
        working = chain.begin(0)
        (working / "chunk_0.mmap").write_bytes(b"2" * LARGE)
        assert (copy.path / "chunk_0.mmap").read_bytes() == b"1" * LARGE
        chain.publish()
        # The old snapshot is gone, the reader's copy of it is not.
        assert (copy.path / "chunk_0.mmap").read_bytes() == b"1" * LARGE
    with chain.open_copy() as copy:
        assert (copy.path / "chunk_0.mmap").read_bytes() == b"2" * LARGE


def test_a_shared_file_needs_no_space(tmp_path: Path, chain: SnapshotChain, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("connectors.snapshots.slots.require_free", lambda folder, needed: asked.append(needed))
    with chain.open_copy() as first, chain.open_copy() as second, chain.open_copy():
        assert allocated_bytes(first.path, SHARED) + LARGE <= allocated_bytes(second.path)
    assert asked
    assert max(asked) < LARGE


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_there_are_no_hard_links_a_copy_is_whole(
    chain: SnapshotChain, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    with chain.open_copy(), chain.open_copy() as second:
        published = chain.current_folder()
        assert published is not None
        assert not (second.path / "chunk_0.mmap").samefile(published / "chunk_0.mmap")
        assert (second.path / "chunk_0.mmap").read_bytes() == b"1" * LARGE


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, DiskFullError), (errno.EIO, StoreError)])
def test_any_other_error_is_said(
    chain: SnapshotChain, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    def broken(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", broken)
    with chain.open_copy(), pytest.raises(error), chain.open_copy():
        pass
