"""The live generation as the service opens it: embedded stores in processes of their own."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from connectors.filters.tree import Everything
from connectors.protocol import Searcher
from connectors.registry import is_embedded, open_searcher
from m3core.errors import StoreError
from pipelines.query.live import LiveGeneration
from pipelines.query.service.apart import ApartSearcher
from pipelines.state.collection import Generation, StoreBinding
from pipelines.state.stores import store_options

# Copying and opening a large embedded folder that is not in the page cache.
_OPENING_SECONDS = 120.0


class ServedGeneration(LiveGeneration):
    """`LiveGeneration` whose embedded stores do not share the service's process."""

    async def _open(self, generation: Generation) -> dict[str, Searcher]:
        searchers: dict[str, Searcher] = {}
        try:
            for binding in generation.stores:
                searchers[binding.name] = await asyncio.to_thread(self._open_one, generation, binding)
                if is_embedded(binding.kind):
                    # Opens the folder now, outside of any query's deadline; what stops it stops the query too.
                    with suppress(StoreError):
                        await searchers[binding.name].count(Everything(), _OPENING_SECONDS)
        except BaseException:
            for searcher in searchers.values():
                await searcher.aclose()
            raise
        return searchers

    def _open_one(self, generation: Generation, binding: StoreBinding) -> Searcher:
        options = store_options(generation, binding, self._config, base=self._base, storage=self._storage)
        return ApartSearcher(binding.kind, options) if is_embedded(binding.kind) else open_searcher(
            binding.kind, options
        )  # fmt: skip
