"""A collection as a caller may know it."""

from __future__ import annotations

from typing import Any

from connectors.filters.identity import identity_filter
from m3core.errors import UsageError
from m3core.fusion import BUILT_IN_PRESETS
from m3core.types import Identity, Signal
from pipelines.query.encoding import QueryEncoder
from pipelines.query.service.service import Service

_SECONDS = 5.0


async def describe(service: Service, identity: Identity) -> dict[str, Any]:
    """Generation, fields, presets, and how many rows `identity` may see. Raises StoreError if the count fails."""
    config = service.config
    encoder = await encoder_of_live(service)
    presets = {**BUILT_IN_PRESETS, **(await encoder.facts()).presets}
    told: dict[str, Any] = {
        "name": config.collection.name,
        "generation": None,
        "created": None,
        "rows": 0,
        "signals": [],
        "fields": dict(config.fields),
        "presets": {name: {signal.value: weights.of(signal) for signal in Signal} for name, weights in presets.items()},
        "default_preset": config.search.preset,
    }
    try:
        async with service.router.stores.pin() as pinned:
            live = pinned.generation
            texts = next(binding.name for binding in live.stores if binding.text)
            rows = await pinned.searchers[texts].count(identity_filter(identity), _SECONDS)
    except UsageError:
        if await is_live(service):
            raise
        return told
    signals = [signal.value for signal in Signal if any(signal.value in each.signals for each in live.stores)]
    fields = dict(live.fields)
    return {**told, "generation": live.number, "created": live.created, "rows": rows, "signals": signals} | {
        "fields": fields
    }


async def encoder_of_live(service: Service) -> QueryEncoder:
    """The model whose vectors meet those of the live generation: after a promotion maybe not the configured one.

    The configured one where there is no generation, or where its model cannot be had: `facts` says which it is.
    """
    router = service.router
    if router.others is None or not await is_live(service):
        return router.encoder
    async with router.stores.pin() as pinned:
        if (await router.encoder.facts()).fingerprint == pinned.generation.encoder_fingerprint:
            return router.encoder
        return await router.others.find(pinned.generation) or router.encoder


async def is_live(service: Service) -> bool:
    """Whether there is a generation to search."""
    state = await service.known.state()
    return state is not None and state.live is not None
