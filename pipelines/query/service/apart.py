"""An embedded store's reading side in a process of its own, so that what it does never stops the event loop.

Edge holds Python's global lock while it searches, opens a folder or optimises; in the service's own process every other
request would wait. Here the wait is a thread's that reads a pipe. The child ends when the pipe closes: also when the
service is killed. If the child dies (a full disk kills it by SIGBUS) the request fails with StoreError and the next one
starts a new child.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from connectors.filters.tree import Filter
from connectors.protocol import Capabilities, Payload, Scored, Searcher, StoreOptions, StoreTimeoutError, WarmSearcher
from connectors.registry import is_embedded, open_searcher
from m3core.errors import StoreError
from m3core.types import QueryVectors, Signal

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

# How long a store may take to let go of its folder; its lock goes with the process in any case.
_CLOSING_SECONDS = 5.0


def open_apart(kind: str, options: StoreOptions) -> Searcher:
    """The reading side of a store; an embedded one in a process of its own."""
    return ApartSearcher(kind, options) if is_embedded(kind) else open_searcher(kind, options)


class ApartSearcher:
    """A `Searcher` whose store lives in a child process. One request at a time; the others wait in their order."""

    def __init__(self, kind: str, options: StoreOptions) -> None:
        """Start the child and open the store in it. Raises what opening raises."""
        self._kind = kind
        self._options = options
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"m3-{options.name}")
        self._child: _Child | None = None
        self._closed = False
        try:
            self._capabilities: Capabilities = self._thread.submit(self._start).result().capabilities
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def search(
        self, signal: Signal, query: QueryVectors, where: Filter, limit: int, timeout: float
    ) -> list[Scored]:
        found: list[Scored] = await self._ask("search", (signal, query, where, limit), timeout)
        return found

    async def score(
        self, signal: Signal, query: QueryVectors, ids: Sequence[str], where: Filter, timeout: float
    ) -> dict[str, float]:
        scores: dict[str, float] = await self._ask("score", (signal, query, list(ids), where), timeout)
        return scores

    async def fetch(self, ids: Sequence[str], where: Filter, timeout: float) -> dict[str, Payload]:
        payloads: dict[str, Payload] = await self._ask("fetch", (list(ids), where), timeout)
        return payloads

    async def count(self, where: Filter, timeout: float) -> int:
        rows: int = await self._ask("count", (where,), timeout)
        return rows

    async def warm(self, timeout: float) -> None:
        await self._ask("warm", (), timeout)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            # A request that hangs keeps the thread: then the child is killed under it, which ends the request.
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
            await asyncio.wait([done], timeout=_CLOSING_SECONDS)
            if not done.done() and self._child is not None:
                self._child.kill()
            self._thread.shutdown(wait=False)

    async def _ask(self, method: str, arguments: tuple[Any, ...], timeout: float) -> Any:
        if self._closed:
            raise StoreError(f"store {self._options.name!r} is closed", "ask again")
        deadline = time.monotonic() + timeout
        asked = asyncio.get_running_loop().run_in_executor(self._thread, self._call, method, arguments, deadline)
        try:
            return await asyncio.wait_for(asked, timeout)
        except TimeoutError:
            raise _late(self._options.name) from None

    # What follows runs on the one thread.

    def _start(self) -> _Child:
        self._child = _Child(self._kind, self._options)
        return self._child

    def _call(self, method: str, arguments: tuple[Any, ...], deadline: float) -> Any:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _late(self._options.name)
        try:
            child = self._child or self._start()
            return child.call(method, (*arguments, left))
        except (EOFError, OSError):
            self._end()
            raise StoreError(
                f"the process of store {self._options.name!r} ended while it was asked",
                "ask again; if it stays so, check the disk's free space and the machine's memory",
            ) from None

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _Child:
    """The process and our end of its pipe."""

    def __init__(self, kind: str, options: StoreOptions) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, kind, options), name=f"m3-{options.name}", daemon=True
        )
        self._process.start()
        theirs.close()
        self.capabilities: Capabilities = self._answer()

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        self._pipe.send((method, arguments))
        return self._answer()

    def end(self) -> None:
        self._pipe.close()
        self._process.join(_CLOSING_SECONDS)
        if self._process.exitcode is None:
            self.kill()
            self._process.join()

    def kill(self) -> None:
        self._process.kill()

    def _answer(self) -> Any:
        good, value = self._pipe.recv()
        if not good:
            raise value
        return value


def _late(store: str) -> StoreTimeoutError:
    return StoreTimeoutError(f"store {store!r} did not answer in time", "allow more time for the query")


def _serve(pipe: Connection, kind: str, options: StoreOptions) -> None:
    """The child: open the store, answer one request after the other, end when the pipe closes."""
    # A terminal and a service manager signal every process; only the service decides when its stores end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with asyncio.Runner() as runner:
        try:
            searcher = open_searcher(kind, options)
        except Exception as error:  # noqa: BLE001 - it is raised in the service
            pipe.send((False, error))
            return
        try:
            pipe.send((True, searcher.capabilities))
            while True:
                method, arguments = pipe.recv()
                if method == "warm" and not isinstance(searcher, WarmSearcher):
                    pipe.send((True, None))
                else:
                    pipe.send(_outcome(runner, getattr(searcher, method), arguments))
        except (EOFError, OSError):
            return
        finally:
            runner.run(searcher.aclose())


def _outcome(runner: asyncio.Runner, method: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, runner.run(method(*arguments))
    except Exception as error:  # noqa: BLE001 - it is raised in the service
        return False, error
