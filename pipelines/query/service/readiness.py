"""Whether a search would be answered: the model is loaded, a generation is live, the store with the texts answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from connectors.filters.tree import Everything
from m3core.errors import M3Error, StoreError, UsageError
from m3core.logs import place_of
from pipelines.query.router import Router

_log = logging.getLogger("m3.serve")
# A probe asks every store; several probes within this time get the same answer.
_KEPT_SECONDS = 1.0
_STORE_SECONDS = 2.0
_RETRY_SECONDS = 2.0
_OK = "ok"


class Readiness:
    """Warms the router up and tells how it is."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._model = asyncio.Event()
        self._warm = asyncio.Event()
        self._warming: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()
        self._told: tuple[float, Mapping[str, str]] = (0.0, {})

    def start(self) -> None:
        """Begin to load model and stores, beside whatever the loop does."""
        self._warming = asyncio.create_task(self._warm_up())

    async def stop(self) -> None:
        """Give up warming."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)

    async def warmed(self) -> None:
        """Returns once one search went through."""
        await self._warm.wait()

    async def checks(self) -> Mapping[str, str]:
        """`ok` or what is wrong, per part: model, generation, stores. Without names and reasons: anybody may ask."""
        async with self._asking:
            then, told = self._told
            if not told or time.monotonic() - then >= _KEPT_SECONDS:
                told = await self._look()
                self._told = (time.monotonic(), told)
            return told

    async def _look(self) -> Mapping[str, str]:
        if not self._model.is_set():
            return {"model": "loading", "generation": "unknown", "stores": "unknown"}
        try:
            async with self._router.stores.pin() as pinned:
                texts = next(binding.name for binding in pinned.generation.stores if binding.text)
                answers = await asyncio.gather(
                    *(each.count(Everything(), _STORE_SECONDS) for each in pinned.searchers.values()),
                    return_exceptions=True,
                )
        except UsageError:
            return {"model": _OK, "generation": "none", "stores": "unknown"}
        except M3Error as error:
            _log.warning("not ready: %s", error)
            return {"model": _OK, "generation": "failed", "stores": "unknown"}
        failed = {name for name, told in zip(pinned.searchers, answers, strict=True) if isinstance(told, BaseException)}
        stores = "failed" if texts in failed else "degraded" if failed else _OK
        return {"model": _OK, "generation": _OK, "stores": stores}

    async def _warm_up(self) -> None:
        """Load the model while the stores open, then try a search until there is something to search."""
        said = ""
        while True:
            try:
                await asyncio.gather(self._router.encoder.ready(), self._open_stores())
                self._model.set()
                await self._router.warm()
                self._warm.set()
                _log.info("ready")
                return
            except (M3Error, OSError) as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("not ready yet: %s", error)
            except Exception as error:  # noqa: BLE001 - a fault of ours may be gone at the next try; somebody has to know
                if type(error).__name__ != said:
                    said = type(error).__name__
                    _log.error("not ready yet: %s in %s", said, place_of(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _open_stores(self) -> None:
        # Without a generation the model is loaded all the same.
        with suppress(UsageError, StoreError):
            async with self._router.stores.pin():
                pass


def is_ready(checks: Mapping[str, str]) -> bool:
    """A search would be answered, maybe without some signal."""
    return all(told == _OK for name, told in checks.items() if name != "stores") and checks["stores"] in (
        _OK, "degraded",
    )  # fmt: skip
