"""Work that several wait for: done once, whoever goes away."""

from __future__ import annotations

import asyncio

import pytest

from pipelines.query.joined import Joined


class Work:
    """Counts how often it began, and in which order works began and ended."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def do(self, name: str) -> str:
        self.told.append(f"{name} begins")
        await asyncio.sleep(0.05)
        self.told.append(f"{name} ends")
        if name == "broken":
            raise ValueError(name)
        return name


def test_who_goes_away_does_not_stop_it_for_the_others() -> None:
    async def scene() -> None:
        joined, work = Joined[str](), Work()
        waiting = [asyncio.create_task(joined.outcome(1, lambda: work.do("a"))) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert joined.busy
        waiting[0].cancel()
        assert await asyncio.gather(*waiting[1:]) == ["a", "a"]
        assert not joined.busy
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        # Everybody gone: it is carried on, and who comes next takes its outcome.
        alone = asyncio.create_task(joined.outcome(1, lambda: work.do("b")))
        await asyncio.sleep(0.01)
        alone.cancel()
        assert await joined.outcome(1, lambda: work.do("c")) == "b"
        assert work.told == ["a begins", "a ends", "b begins", "b ends"]

    asyncio.run(scene())


def test_another_key_waits_for_its_turn() -> None:
    async def scene() -> None:
        joined, work = Joined[str](), Work()
        both = asyncio.gather(joined.outcome(1, lambda: work.do("a")), joined.outcome(2, lambda: work.do("b")))
        assert await both == ["a", "b"]
        assert work.told == ["a begins", "a ends", "b begins", "b ends"]

    asyncio.run(scene())


def test_an_error_is_everybodys_and_the_next_begins_anew() -> None:
    async def scene() -> None:
        joined, work = Joined[str](), Work()
        broken = [joined.outcome(1, lambda: work.do("broken")) for _ in range(2)]
        assert [str(error) for error in await asyncio.gather(*broken, return_exceptions=True)] == ["broken"] * 2
        assert await joined.outcome(1, lambda: work.do("a")) == "a"

    asyncio.run(scene())


def test_at_the_end_it_is_given_up() -> None:
    async def scene() -> None:
        joined, work = Joined[str](), Work()
        waiting = asyncio.create_task(joined.outcome(1, lambda: work.do("a")))
        await asyncio.sleep(0.01)
        await joined.aclose()
        await joined.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.told == ["a begins"]

    asyncio.run(scene())
