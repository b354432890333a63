"""An embedded store's reading side in processes of its own, so that what it does never stops the event loop.

Edge holds Python's global lock while it searches, opens a folder or optimises; in the service's own process every other
request would wait. Here the wait is a thread's that reads a pipe. A child ends when its pipe closes: also when the
service is killed. If it dies (a full disk kills it by SIGBUS) the request fails with StoreError and the next one starts
a new child.

Each child answers one request after the other. A search asks for several signals at once, so there are two children
where there are two cores; their copies of the store share the large files.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from connectors.filters.tree import Everything, Filter
from connectors.protocol import Capabilities, Payload, Scored, Searcher, StoreOptions, StoreTimeoutError, WarmSearcher
from connectors.registry import is_embedded, open_searcher
from m3core.errors import M3Error, StoreError
from m3core.types import QueryVectors, Signal
from pipelines.query.live import OPENING_SECONDS

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

# A search has rarely more to do at once.
_MOST_PROCESSES = 2
# How long a store may take to let go of its folder; its lock goes with the process in any case.
_CLOSING_SECONDS = 5.0
# Fewer multi-vector scores (some 60 microseconds each) are not worth another message.
_SHARED_IDS = 64

_log = logging.getLogger("m3.serve")
# multiprocessing keeps a list of its processes without a lock of its own.
_starting = threading.Lock()


def open_apart(kind: str, options: StoreOptions) -> Searcher:
    """The reading side of a store; an embedded one in processes of its own."""
    return ApartSearcher(kind, options) if is_embedded(kind) else open_searcher(kind, options)


class ApartSearcher:
    """A `Searcher` whose store lives in child processes, each with one request at a time; others wait in their order.

    There is a second child if the store says that a second reader costs little (`Capabilities.shares_files`) and the
    machine has two cores. It comes when the first is at work already, and if it cannot open the store there is none.
    """

    def __init__(self, kind: str, options: StoreOptions, processes: int | None = None) -> None:
        """Start the first child and open the store in it; at most `processes`. Raises what opening raises."""
        self._options = options
        most = min(_MOST_PROCESSES, os.cpu_count() or 1) if processes is None else processes
        self._places = [_Place(kind, options)]
        # Each child in its turn, so that all of them soon follow a new snapshot.
        self._idle: queue.SimpleQueue[_Place] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(max_workers=most, thread_name_prefix=f"m3-{options.name}")
        self._closed = False
        try:
            self._capabilities: Capabilities = self._threads.submit(self._places[0].open).result()
        except BaseException:
            self._threads.shutdown(wait=False)
            raise
        self._idle.put(self._places[0])
        if self._capabilities.shares_files:
            self._places += [_Place(kind, options) for _ in range(most - 1)]
        self._adding = [self._threads.submit(self._add, place) for place in self._places[1:]]

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
        each = max(_SHARED_IDS, -(-len(ids) // len(self._places))) if signal is Signal.MULTI else max(1, len(ids))
        parts = [list(ids[at : at + each]) for at in range(0, len(ids), each)]
        found: list[dict[str, float]] = await asyncio.gather(
            *(self._ask("score", (signal, query, part, where), timeout) for part in parts)
        )
        return {chunk_id: score for part in found for chunk_id, score in part.items()}

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
            await asyncio.to_thread(self._end)
            self._threads.shutdown(wait=False)

    async def _ask(self, method: str, arguments: tuple[Any, ...], timeout: float) -> Any:
        if self._closed:
            raise _shut(self._options.name)
        deadline = time.monotonic() + timeout
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._call, method, arguments, deadline)
        try:
            return await asyncio.wait_for(asked, timeout)
        except TimeoutError:
            raise _late(self._options.name) from None

    # What follows runs on threads.

    def _add(self, place: _Place) -> None:
        try:
            place.call("count", (Everything(), OPENING_SECONDS))
        except M3Error as error:
            self._places.remove(place)
            place.end()
            if not self._closed:
                _log.warning("store %r is read by fewer processes: %s", self._options.name, error)
            return
        self._idle.put(place)

    def _call(self, method: str, arguments: tuple[Any, ...], deadline: float) -> Any:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _late(self._options.name)
        try:
            place = self._idle.get(timeout=left)
        except queue.Empty:
            raise _late(self._options.name) from None
        try:
            return place.call(method, (*arguments, deadline - time.monotonic()))
        finally:
            self._idle.put(place)

    def _end(self) -> None:
        """End every child behind its request. One that hangs is killed, which ends the request."""
        deadline = time.monotonic() + _CLOSING_SECONDS
        wait(self._adding, _CLOSING_SECONDS)
        left = list(self._places)
        while left:
            try:
                place = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            left.remove(place)
            place.end()
        for place in left:
            place.kill()


class _Place:
    """Where a child is: the one that was started first, or one in the place of another that died."""

    def __init__(self, kind: str, options: StoreOptions) -> None:
        self._kind = kind
        self._options = options
        self._child: _Child | None = None
        self._closed = False

    def open(self) -> Capabilities:
        """Start a child and open the store in it. Raises what opening raises."""
        with self._telling():
            return self._start().capabilities

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Ask the child, or a new one if it died before. Raises what it raises, StoreError if it dies now."""
        with self._telling():
            child = self._child or self._start()
            return child.call(method, arguments)

    def end(self) -> None:
        """Let the child end by itself; for good."""
        self._closed = True
        self._end_child()

    def kill(self) -> None:
        """End the child whatever it does; for good."""
        with _starting:
            self._closed = True
            if self._child is not None:
                self._child.kill()

    def _start(self) -> _Child:
        with _starting:
            if self._closed:
                raise _shut(self._options.name)
            child = self._child = _Child(self._kind, self._options)
        try:
            child.open()
        except BaseException:
            self._end_child()
            raise
        return child

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """A pipe that closed while something was read from it means that the child died."""
        try:
            yield
        except (EOFError, OSError):
            self._end_child()
            raise StoreError(
                f"the process of store {self._options.name!r} ended while it was asked",
                "ask again; if it stays so, check the disk's free space and the machine's memory",
            ) from None

    def _end_child(self) -> None:
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
        self.capabilities: Capabilities

    def open(self) -> None:
        """Wait until it has opened the store."""
        self.capabilities = self._answer()

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


def _shut(store: str) -> StoreError:
    return StoreError(f"store {store!r} is closed", "ask again")


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
