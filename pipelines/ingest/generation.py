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
        spec = model_spec(model.name, model.revision, base, model.long_pooling)
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
    if state is None or not state.generations:
        return None
    return state.live_generation or state.generations[-1]


def check_fits(generation: Generation, build: Build, config: Config) -> None:
    """Refuse a run whose rows must not meet those of `generation`; RefusedError says what changed."""
    changes = list(_changes(generation, build, config))
    if changes:
        raise RefusedError(
            f"collection {config.collection.name!r}, generation {generation.number} was built otherwise: "
            + "; ".join(changes),
            "take the change back, or give the collection another name: rows of two builds never mix",
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


def begin(paths: StatePaths, lease: Lease, build: Build, config: Config) -> tuple[CollectionState, Generation]:
    """Count the run up and return the generation it writes; the first run makes generation 1."""
    state = begin_run(paths, lease)
    generation = current(state)
    if generation is not None:
        return state, generation
    first = Generation(
        number=1,
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
    made = replace(state, generations=(first,))
    swap_collection(paths, state, made)
    return made, first


def finish(paths: StatePaths, state: CollectionState, generation: Generation, *, whole: bool) -> None:
    """The run is in the stores: its generation is live. `whole` says that nothing of the listing was left out."""
    applied = state.run if whole else generation.applied_run
    done = replace(generation, status="live", applied_run=applied)
    others = tuple(done if each.number == done.number else each for each in state.generations)
    swap_collection(paths, state, replace(state, live=done.number, generations=others))
