"""One absolute deadline over several stores: real sleeps, real exceptions."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from connectors.protocol import StoreTimeoutError
from m3core.errors import FilterError, StoreError
from pipelines.query.answer import Coverage
from pipelines.query.asking import Deadline, Missed, ask_all


async def _answer(timeout: float) -> str:
    return f"{timeout > 0}"


async def _sleep(timeout: float) -> str:
    await asyncio.sleep(30)
    return "late"


async def _stubborn(timeout: float) -> str:
    """A client that does not let itself be cancelled at once."""
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)
        raise StoreError("told too late") from None
    return "late"


async def _refuse(timeout: float) -> str:
    raise StoreError("main refused")


async def _reset(timeout: float) -> str:
    raise ConnectionResetError("GET /secret query")


async def _time_out(timeout: float) -> str:
    raise StoreTimeoutError("main did not answer")


def test_what_is_late_or_broken_is_told_apart_and_nobody_waits_longer() -> None:
    async def scene() -> None:
        deadline = Deadline.after(asyncio.get_running_loop().time(), 0.1)
        began = time.perf_counter()
        asks = {"a": _answer, "s": _sleep, "b": _stubborn, "r": _refuse, "c": _reset, "t": _time_out}
        answers = await ask_all(asks, deadline)
        assert time.perf_counter() - began < 0.19
        assert answers.told == {"a": "True"}
        late = Missed(Coverage.TIMEOUT, "no answer within 0.1 s")
        assert answers.missed == {
            "s": late,
            "b": late,
            "t": late,
            "r": Missed(Coverage.FAILED, "main refused"),
            "c": Missed(Coverage.FAILED, "ConnectionResetError"),
        }
        await asyncio.sleep(0.3)  # The stubborn one fails now; the loop must not report it.

    asyncio.run(scene(), debug=True)


def test_cancellation_reaches_the_client() -> None:
    reached: list[str] = []

    async def client(timeout: float) -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            reached.append("cancelled")
            raise
        return "late"

    async def scene() -> None:
        await ask_all({"x": client}, Deadline.after(asyncio.get_running_loop().time(), 0.05))
        await asyncio.sleep(0)
        assert reached == ["cancelled"]
        caller = asyncio.ensure_future(ask_all({"x": client}, Deadline.after(asyncio.get_running_loop().time(), 30)))
        await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await asyncio.sleep(0)
        assert reached == ["cancelled", "cancelled"]

    asyncio.run(scene())


def test_past_deadline_asks_nobody() -> None:
    asked: list[float] = []

    async def client(timeout: float) -> str:
        asked.append(timeout)
        return "told"

    async def scene() -> None:
        answers = await ask_all({"x": client}, Deadline.after(asyncio.get_running_loop().time() - 5, 1.0))
        assert answers.missed == {"x": Missed(Coverage.TIMEOUT, "no answer within 1 s")}

    asyncio.run(scene())
    assert asked == []


def test_what_is_no_fault_of_a_store_is_raised() -> None:
    async def faulty(timeout: float) -> str:
        raise FilterError("the store cannot express this")

    async def scene() -> None:
        await ask_all({"x": faulty, "y": _answer}, Deadline.after(asyncio.get_running_loop().time(), 1.0))

    with pytest.raises(FilterError, match="cannot express"):
        asyncio.run(scene())


def test_of_two_such_faults_one_is_raised_and_the_other_is_not_reported_as_forgotten() -> None:
    reported: list[object] = []

    async def faulty(timeout: float) -> str:
        raise FilterError("the store cannot express this")

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        with pytest.raises(FilterError):
            await ask_all({"x": faulty, "y": faulty}, Deadline.after(asyncio.get_running_loop().time(), 1.0))

    asyncio.run(scene())
    gc.collect()
    assert reported == []


def test_what_was_cancelled_has_ended_when_the_search_goes_on() -> None:
    ended: list[str] = []

    async def client(timeout: float) -> str:
        async def connection() -> None:
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0)
                ended.append("closed")

        await asyncio.wait_for(connection(), 20)
        return "late"

    async def scene() -> None:
        await ask_all({"x": client}, Deadline.after(asyncio.get_running_loop().time(), 0.05))
        assert ended == ["closed"]

    asyncio.run(scene())
