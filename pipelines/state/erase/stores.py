"""Rows taken out of the stores of every generation, and the bytes of what was deleted before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from connectors.protocol import CompactingSink, EmbeddedSink, Sink, StaleWriterError, StoreOptions
from connectors.registry import is_embedded, open_sink
from connectors.snapshots.chain import SnapshotChain
from m3core.errors import StoreError
from pipelines.state.collection import CollectionState, Generation, StoreBinding
from pipelines.state.erase.target import Target
from pipelines.state.stores import store_options


@dataclass(frozen=True)
class ErasedStore:
    """One store of one generation. `rows`: what it has fewer than before. `compacted`: no byte of deleted rows is left
    in its files; a store that cannot do that on request drops them in its own time. `held`: copies of old snapshots
    that readers still have open."""

    name: str
    generation: int
    rows: int
    compacted: bool
    held: int = 0


def erase_from_stores(
    target: Target,
    state: CollectionState,
    run: int,
    chunk_ids: Callable[[], Iterator[list[str]]],
    before_request: Callable[[], None],
) -> tuple[list[ErasedStore], list[StoreError]]:
    """Delete the chunks everywhere, make it visible, and compact. What a store that is down kept is in the errors; the
    others were done."""
    done: list[ErasedStore] = []
    errors: list[StoreError] = []
    for generation in state.generations:
        for binding in generation.stores:
            options = replace(
                store_options(generation, binding, target.config, base=target.base, storage=target.storage),
                min_free_bytes=target.config.ingest.min_free_bytes,
                revision=run,
                before_request=before_request,
            )
            before_request()
            try:
                if generation.status != "dropped":
                    done.append(_erase_fenced(generation, binding, options, chunk_ids))
                elif binding.name in target.config.stores:
                    _drop_rest(binding, options)
            except StoreError as error:
                errors.append(error)
    return done, errors


def _drop_rest(binding: StoreBinding, options: StoreOptions) -> None:
    """What a store that was down kept of a generation that was dropped; without anything left, one request."""
    with _opened(binding.kind, options) as sink:
        sink.drop()


def _erase_fenced(
    generation: Generation, binding: StoreBinding, options: StoreOptions, chunk_ids: Callable[[], Iterator[list[str]]]
) -> ErasedStore:
    """A state that was restored counts its runs from where it was: rows may be of later runs. They go all the same."""
    try:
        return _erase(generation, binding, options, chunk_ids())
    except StaleWriterError:
        return _erase(generation, binding, replace(options, revision=0), chunk_ids())


def _erase(
    generation: Generation, binding: StoreBinding, options: StoreOptions, batches: Iterable[list[str]]
) -> ErasedStore:
    chain = SnapshotChain(options.folder) if is_embedded(binding.kind) else None
    if chain is not None and chain.current() is None:
        return ErasedStore(binding.name, generation.number, 0, True, chain.sweep())
    with _opened(binding.kind, options) as sink:
        sink.ensure(options.schema)
        before = sink.count()
        for ids in batches:
            options.before_request()
            sink.delete(ids)
        compacts = isinstance(sink, CompactingSink)
        if isinstance(sink, CompactingSink):
            options.before_request()
            sink.compact()
        after = sink.count()
        if isinstance(sink, EmbeddedSink):
            options.before_request()
            sink.publish()
        else:
            sink.flush()
    held = chain.sweep() if chain is not None else 0
    return ErasedStore(binding.name, generation.number, before - after, compacts, held)


@contextmanager
def _opened(kind: str, options: StoreOptions) -> Iterator[Sink]:
    sink = open_sink(kind, options)
    try:
        yield sink
    finally:
        sink.close()
