"""What readers of embedded stores do about a snapshot that was published while they had the one before open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors.snapshots.chain import SnapshotChain
from connectors.snapshots.slots import Slots
from m3core.errors import DiskFullError, LockedError, StoreError
from tests.conformance.data import make_rows
from tests.conformance.store import quick_store


def publish(chain: SnapshotChain, text: str) -> None:
    (chain.begin(0) / "a").write_text(text)
    chain.publish()


def no_room(*_: Any, **__: Any) -> None:
    raise DiskFullError("the disk is full", "free some space")


def test_a_reader_gets_a_copy_of_what_is_newer_and_only_of_that(tmp_path: Path) -> None:
    chain = SnapshotChain(tmp_path / "g00001")
    publish(chain, "one")
    with chain.open_copy() as held:
        assert chain.newer_copy(held, wait=0, min_free=0) is None
        publish(chain, "two")
        newer = chain.newer_copy(held, wait=0, min_free=0)
        assert newer is not None
        with newer:
            assert (newer.path / "a").read_text() == "two"


def test_the_old_one_answers_while_a_copy_of_the_newer_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise LockedError("copies are busy", "wait")

    chain = SnapshotChain(tmp_path / "g00001")
    publish(chain, "one")
    with chain.open_copy() as held:
        publish(chain, "two")
        monkeypatch.setattr(Slots, "take", busy)
        assert chain.newer_copy(held, wait=0, min_free=0) is None


@pytest.mark.parametrize("kind", ["qdrant-edge", pytest.param("milvus-lite", marks=pytest.mark.xdist_group("milvus"))])
def test_without_room_for_what_was_published_the_old_snapshot_does_not_answer(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick_store(kind, tmp_path) as store:
        store.write(make_rows(5))
        assert store.count() == 5
        monkeypatch.setattr(Slots, "prepare", no_room)
        monkeypatch.setattr(Slots, "take", no_room)
        store.write(make_rows(9))
        with pytest.raises(StoreError, match="what was published cannot be opened: the disk is full") as caught:
            store.count()
        assert caught.value.remedy == "free some space"
        monkeypatch.undo()
        assert store.count() == 9
