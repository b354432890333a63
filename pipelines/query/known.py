"""What `collection.json` says, for requests: read at every one from a disk, at most once a second from a bucket.

A bucket answers in its own time: it is asked in a thread, once for all requests that want to know, and while it takes
long or fails what it said last is used.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.query.joined import Joined
from pipelines.state.bucket import BucketError
from pipelines.state.collection import CollectionState, read_collection
from pipelines.state.mirror import mirror_of
from pipelines.state.paths import StatePaths

_log = logging.getLogger("m3.query")
_FRESH_SECONDS = 1.0
_PATIENCE_SECONDS = 1.0


@dataclass
class KnownCollection:
    """The state of one collection. For one event loop; `clock` counts seconds."""

    paths: StatePaths
    clock: Callable[[], float] = time.monotonic
    # The state, and when it was read.
    _told: tuple[CollectionState | None, float] | None = field(default=None, init=False)
    _asking: Joined[None] = field(default_factory=Joined, init=False)
    _late: bool = field(default=False, init=False)

    async def state(self) -> CollectionState | None:
        """The state; None before the first run.

        Raises StateError if the file is damaged or of a newer format, BucketError if the bucket has never answered.
        """
        if mirror_of(self.paths.root) is None:
            return read_collection(self.paths)
        if self._told is None:
            await self._asking.outcome(None, self._ask)
        elif self.clock() - self._told[1] >= _FRESH_SECONDS:
            await self._ask_again()
        assert self._told is not None  # noqa: S101 - asked without an error
        return self._told[0]

    async def aclose(self) -> None:
        """Ask no more; idempotent."""
        await self._asking.aclose()

    async def _ask_again(self) -> None:
        if self._late and self._asking.busy:
            return
        self._late = False
        try:
            await asyncio.wait_for(self._asking.outcome(None, self._ask), _PATIENCE_SECONDS)
        except TimeoutError:
            self._late = True
            _log.warning("the bucket has not said within %g s which generation is live", _PATIENCE_SECONDS)
        except BucketError as error:
            _log.warning("the bucket does not say which generation is live: %s", error)

    async def _ask(self) -> None:
        state = await asyncio.to_thread(read_collection, self.paths)
        self._told = state, self.clock()
