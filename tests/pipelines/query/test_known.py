"""What a service knows of `collection.json`: from a disk at once, from a bucket without making anybody wait long."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from m3core.errors import StateError
from pipelines.query import known
from pipelines.query.known import KnownCollection
from pipelines.state.bucket import BucketError
from pipelines.state.collection import CollectionState, swap_collection
from pipelines.state.paths import StatePaths


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowBucket:
    """Answers with the run's number after `seconds`, or fails."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.run = 1
        self.fault: Exception | None = None
        self.asked = 0

    def read(self, paths: StatePaths) -> CollectionState:
        self.asked += 1
        run, fault = self.run, self.fault
        time.sleep(self.seconds)
        if fault is not None:
            raise fault
        return CollectionState(1, paths.root.name, None, run, ())


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> SlowBucket:
    bucket = SlowBucket()
    monkeypatch.setattr(known, "mirror_of", lambda _: object())
    monkeypatch.setattr(known, "read_collection", bucket.read)
    return bucket


def _of(tmp_path: Path, clock: Any = time.monotonic) -> KnownCollection:
    return KnownCollection(StatePaths.of(tmp_path, "handbook"), clock)


async def _run(collection: KnownCollection) -> int:
    state = await collection.state()
    assert state is not None
    return state.run


def test_a_disk_is_read_at_every_request(tmp_path: Path) -> None:
    collection = _of(tmp_path)
    assert asyncio.run(collection.state()) is None
    made = CollectionState(1, "handbook", None, 1, ())
    swap_collection(collection.paths, None, made)
    assert asyncio.run(collection.state()) == made


def test_a_bucket_is_asked_once_a_second_for_everybody(tmp_path: Path, bucket: SlowBucket) -> None:
    async def scene() -> None:
        clock = Clock()
        collection = _of(tmp_path, clock)
        bucket.seconds = 0.05
        assert set(await asyncio.gather(*(_run(collection) for _ in range(20)))) == {1}
        bucket.run = 2
        assert await _run(collection) == 1
        assert bucket.asked == 1
        clock.now += 1.0
        assert set(await asyncio.gather(*(_run(collection) for _ in range(20)))) == {2}
        assert bucket.asked == 2

    asyncio.run(scene())


def test_a_bucket_that_hangs_holds_up_one_moment_and_nothing_else(
    tmp_path: Path, bucket: SlowBucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known, "_PATIENCE_SECONDS", 0.05)

    async def scene() -> None:
        clock = Clock()
        collection = _of(tmp_path, clock)
        assert await _run(collection) == 1
        clock.now += 1.0
        bucket.seconds, bucket.run = 0.5, 2
        turns = 0

        async def beside() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.005)
                turns += 1

        other = asyncio.create_task(beside())
        assert await _run(collection) == 1
        assert "has not said within 0.05 s" in caplog.text
        assert turns >= 2
        before = turns
        # Who comes now does not wait again for the same answer.
        assert [await _run(collection) for _ in range(3)] == [1, 1, 1]
        assert turns == before
        while await _run(collection) == 1:
            await asyncio.sleep(0.02)
        assert bucket.asked == 2
        other.cancel()

    asyncio.run(scene())


def test_a_bucket_that_fails_leaves_what_it_said(
    tmp_path: Path, bucket: SlowBucket, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        clock = Clock()
        collection = _of(tmp_path, clock)
        bucket.fault = BucketError("no route", "")
        with pytest.raises(BucketError, match="no route"):
            await collection.state()
        bucket.fault = None
        assert await _run(collection) == 1
        bucket.fault, bucket.run = BucketError("no route", ""), 2
        clock.now += 1.0
        assert await _run(collection) == 1
        assert "does not say which generation is live: no route" in caplog.text
        bucket.fault = None
        assert await _run(collection) == 2

    asyncio.run(scene())


def test_a_damaged_file_is_an_error_whatever_was_known(tmp_path: Path, bucket: SlowBucket) -> None:
    async def scene() -> None:
        clock = Clock()
        collection = _of(tmp_path, clock)
        assert await _run(collection) == 1
        clock.now += 1.0
        bucket.fault = StateError("damaged", "")
        with pytest.raises(StateError, match="damaged"):
            await collection.state()

    asyncio.run(scene())
