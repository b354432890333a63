"""One store of a configuration: does it answer, is it set up as we need it, and does a row come back from it?"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from connectors.connection import connection_of
from connectors.protocol import CollectionSchema, ExaminedSink, FieldType, StoreFacts, StoreOptions
from connectors.registry import is_embedded, open_sink
from m3core.errors import M3Error, StoreError
from m3core.types import Signal
from pipelines.operate.collection import Collection, Place
from pipelines.operate.doctor_check import Check, Finding, checked, scarce
from pipelines.operate.doctor_scratch import SCRATCH_DIM, scratch_checks
from pipelines.operate.stores import Store
from pipelines.state.collection import CollectionState, Generation
from pipelines.state.stores import store_folder

# A Date header has whole seconds, and the answer takes its time.
_CLOCK_SECONDS = 30.0


@dataclass(frozen=True)
class StoreHealth:
    """What was found about one store; `version` is empty if it did not answer."""

    name: str
    kind: str
    signals: tuple[str, ...]
    text: bool
    version: str
    checks: tuple[Check, ...]

    def as_json(self) -> dict[str, Any]:
        """In the order of the fields."""
        return {
            "kind": self.kind,
            "signals": list(self.signals),
            "text": self.text,
            "version": self.version or None,
            "checks": [check.as_json() for check in self.checks],
        }


def examine_store(place: Place, name: str, state: CollectionState | None) -> StoreHealth:
    """Look at one store; where it does not answer nothing more is tried."""
    section = place.config.stores[name]
    facts: list[StoreFacts] = []
    checks = tuple(_checks(place, name, state, facts))
    version = facts[0].version if facts else ""
    return StoreHealth(name, section.kind, section.signals, section.text, version, checks)


def _checks(place: Place, name: str, state: CollectionState | None, facts: list[StoreFacts]) -> Iterator[Check]:
    kind = place.config.stores[name].kind
    options = _scratch_options(place, name)
    try:
        opened = open_sink(kind, options)
    except M3Error as failure:
        yield Check("answers", failure=failure)
        return
    with closing(opened) as sink:
        if not isinstance(sink, ExaminedSink):
            yield Check("answers", failure=M3Error(f"stores of kind {kind} cannot be examined yet", "report it"))
            return
        answers = checked("answers", lambda: _answers(sink, facts))
        yield answers
    if answers.failure is not None:
        return
    yield from _about(facts[0], embedded=is_embedded(kind))
    if state is not None:
        yield from (_schema(place, state, generation, name) for generation in state.generations if _kept(generation))
    yield from scratch_checks(kind, options)


def _answers(sink: ExaminedSink, facts: list[StoreFacts]) -> str:
    start = time.perf_counter()
    facts.append(sink.facts())
    return f"answered in {1000 * (time.perf_counter() - start):.0f} ms"


def _about(facts: StoreFacts, *, embedded: bool) -> Iterator[Check]:
    if facts.clock is not None:
        yield Check("clock", _clock(facts.clock - time.time()))
    if facts.free_bytes is not None and facts.total_bytes is not None and not embedded:
        yield Check("disk", scarce(facts.free_bytes, facts.total_bytes))
    for limit in facts.limits:
        finding = Finding(f"{limit.name} {limit.value:,}")
        if limit.value < limit.least:
            finding = replace(
                finding,
                advice=f"{limit.name} is {limit.value:,}; our requests have up to {limit.least:,}, and are split here",
                remedy=f"set it to {limit.least:,} or more",
            )
        yield Check("limit", finding)


def _clock(ahead: float) -> Finding:
    if abs(ahead) < _CLOCK_SECONDS:
        return Finding("its clock is ours")
    where = "ahead of" if ahead > 0 else "behind"
    return Finding(
        f"its clock is {abs(ahead):,.0f} s {where} ours",
        f"its clock is {abs(ahead):,.0f} s {where} ours",
        "set both by a time server (NTP)",
    )


def _kept(generation: Generation) -> bool:
    return generation.status != "dropped"


def _schema(place: Place, state: CollectionState, generation: Generation, name: str) -> Check:
    def as_built() -> str:
        binding = next((found for found in generation.stores if found.name == name), None)
        if binding is None:
            return f"not of generation {generation.number}"
        if binding.kind != place.config.stores[name].kind:
            raise StoreError(
                f"generation {generation.number} is in a store {name!r} of kind {binding.kind}, "
                f"the configuration says {place.config.stores[name].kind}",
                "take the change back, or give the collection another name",
            )
        store = Store(Collection(place, state, generation), binding)
        with store.sink() as sink:
            there = isinstance(sink, ExaminedSink) and sink.verify()
        if there:
            return f"generation {generation.number} as built"
        if generation.status == "building":
            return f"generation {generation.number} is not made yet"
        raise StoreError(
            f"store {name!r} has no {generation.status} generation {generation.number}",
            "m3 ingest writes it again from the lake",
        )

    return checked("schema", as_built)


def _scratch_options(place: Place, name: str) -> StoreOptions:
    """The store as the configuration has it, with a collection of a name that nobody else has."""
    section = place.config.stores[name]
    collection = f"doctor_{secrets.token_hex(6)}"
    return StoreOptions(
        name=name,
        root=store_folder(place.storage, name, collection),
        schema=CollectionSchema(
            collection=collection,
            generation=1,
            signals=frozenset(Signal(signal) for signal in section.signals),
            dense_dim=SCRATCH_DIM,
            multi_dim=SCRATCH_DIM,
            fields={field: FieldType(kind) for field, kind in place.config.fields.items()},
            keeps_text=section.text,
            encoder_fingerprint="float-doctor",
        ),
        min_free_bytes=place.config.ingest.min_free_bytes,
        connection=connection_of(section, place.base),
    )
