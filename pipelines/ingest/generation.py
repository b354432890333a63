"""Which generation a run writes: the first run makes it, later ones must fit it; what differs is refused."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from m3core.checkpoint import ModelSpec, model_spec
from m3core.config.model import Config
from m3core.errors import RefusedError
from m3core.fingerprint import collection_fingerprint, encoder_fingerprint
from pipelines.ingest.chunking import CHUNKER_VERSION
from pipelines.ingest.parsing import PARSER_VERSION
from pipelines.state.collection import CollectionState, Generation, StoreBinding, begin_run, swap_collection
from pipelines.state.lease import Lease
from pipelines.state.paths import StatePaths


@dataclass(frozen=True)
class Build:
    """What the configuration would build: the model's facts and both fingerprints."""

    spec: ModelSpec
    encoder: str
    collection: str

    @classmethod
    def of(cls, config: Config, base: Path) -> Build:
        """From configuration and model folder; no weights are loaded. Raises ModelError."""
        model = config.model
        spec = model_spec(model.name, model.revision, base, model.long_pooling, model.precision)
        encoder = encoder_fingerprint(spec)
        settings = {
            "chunker": CHUNKER_VERSION,
            "parser": PARSER_VERSION,
            "chunking": config.chunking.model_dump(mode="json"),
            "fields": dict(config.fields),
        }
        return cls(spec, encoder, collection_fingerprint(encoder, settings))


def current(state: CollectionState | None) -> Generation | None:
    """The generation that runs write: the live one, or the first one while it is being built."""
    return None if state is None else state.current_generation


def check_fits(generation: Generation, build: Build, config: Config) -> None:
    """Refuse a run whose rows must not meet those of `generation`; RefusedError says what changed."""
    changes = list(_changes(generation, build, config))
    if changes:
        raise RefusedError(
            f"collection {config.collection.name!r}, generation {generation.number} was built otherwise: "
            + "; ".join(changes),
            "take the change back, or build a generation of it beside this one: m3 generations build",
        )


def _changes(generation: Generation, build: Build, config: Config) -> Iterator[str]:
    same_model = generation.encoder_fingerprint == build.encoder
    same_fields = dict(generation.fields) == dict(config.fields)
    if not same_model:
        was, now = generation.encoder_fingerprint[:14], build.encoder[:14]
        yield f"the model ({generation.model} was {was}, {build.spec.name} is {now})"
    if not same_fields:
        yield "the declared fields (" + _names(generation.fields.items(), config.fields.items()) + ")"
    if same_model and same_fields and generation.collection_fingerprint != build.collection:
        yield "the chunking settings, or the version of chunker or parser"
    if set(generation.stores) != set(bindings(config)):
        before = [(store.name, store) for store in generation.stores]
        yield "the stores (" + _names(before, [(store.name, store) for store in bindings(config)]) + ")"


def _names(before: Iterable[tuple[str, object]], now: Iterable[tuple[str, object]]) -> str:
    """Names whose values differ."""
    return ", ".join(sorted({name for name, _ in set(before) ^ set(now)}))


def bindings(config: Config) -> tuple[StoreBinding, ...]:
    """The configured stores and what each keeps."""
    return tuple(
        StoreBinding(name, store.kind, tuple(sorted(store.signals)), store.text)
        for name, store in sorted(config.stores.items())
    )


def check_builds(state: CollectionState | None, build: Build, config: Config) -> None:
    """RefusedError if the generation that the configuration describes is not to be built: it is there, finished."""
    for generation in () if state is None else state.generations:
        if generation.status not in ("live", "retired") or any(_changes(generation, build, config)):
            continue
        number = generation.number
        raise RefusedError(
            f"the configuration describes generation {number} of collection {config.collection.name!r}, which is "
            f"{generation.status}",
            "m3 ingest brings it up to date"
            if generation.status == "live"
            else f"m3 generations rollback, or m3 generations drop {number} and build it anew",
        )


def begin(paths: StatePaths, lease: Lease, build: Build, config: Config) -> tuple[CollectionState, Generation]:
    """Count the run up and return the generation it writes; the first run makes generation 1."""
    state = begin_run(paths, lease)
    generation = current(state)
    return (state, generation) if generation is not None else _add(paths, state, build, config)


def begin_build(paths: StatePaths, lease: Lease, build: Build, config: Config) -> tuple[CollectionState, Generation]:
    """Count the run up and return the generation that it builds beside the live one: the one that is being built so
    already, else a new one."""
    state = begin_run(paths, lease)
    for generation in reversed(state.generations):
        if generation.status == "building" and not any(_changes(generation, build, config)):
            return state, generation
    return _add(paths, state, build, config)


def _add(paths: StatePaths, state: CollectionState, build: Build, config: Config) -> tuple[CollectionState, Generation]:
    added = Generation(
        number=max((each.number for each in state.generations), default=0) + 1,
        collection_fingerprint=build.collection,
        encoder_fingerprint=build.encoder,
        model=build.spec.name,
        dense_dim=build.spec.dense_dim,
        multi_dim=build.spec.multi_dim,
        fields=dict(config.fields),
        stores=bindings(config),
        status="building",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    made = state.with_generations(added)
    swap_collection(paths, state, made)
    return made, added


def finish(paths: StatePaths, state: CollectionState, generation: Generation, *, whole: bool) -> None:
    """The run is in the stores: its generation is live, unless it is built beside another one. `whole` says that
    nothing of the listing was left out."""
    applied = state.run if whole else generation.applied_run
    live = state.live or generation.number
    status = "live" if live == generation.number else generation.status
    done = replace(generation, status=status, applied_run=applied)
    swap_collection(paths, state, replace(state.with_generations(done), live=live))
