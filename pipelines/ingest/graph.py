"""The Beam graph of one wave: its transforms only wire, each DoFn calls one plain function.

numbers -> groups -> prepare -> find in the lake -> units -> encode (one lake file each) -> references -> load -> commit

References are reshuffled, so that a retried load never encodes again; no vector passes between stages. The commit is
the graph's last single step. The encode and load steps take one unit at a time: a bundle may hold them all.

Here it runs in this process, once per wave. On an engine (`runners/`) it is the same graph; what its steps work with
they find by a `Sharing`, which travels with them.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipelines.ingest.embed import Reference, cut_units, encode_unit, split_known
from pipelines.ingest.load import Loaded, load
from pipelines.ingest.reading import Group, Rows, parts_of, prepare
from pipelines.ingest.shared import Here, Shared, Sharing
from pipelines.state.runs import DeadLetter

_OUTCOMES = "outcomes"
_KNOWN = "known"


def pack(value: object) -> bytes:
    """What passes between stages, as bytes: Beam would pickle every row by itself, at every stage."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> Any:
    """The value again. Only a stage of the same run has packed it."""
    return pickle.loads(data)  # noqa: S301


class Step(beam.DoFn):
    """A step of the graph: finds what it works with, runs one plain function, hands a failure to the run."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._shared: Shared | None = None

    def setup(self) -> None:
        """Find, or make, what this process works with."""
        self._shared = self._sharing.open(type(self).__name__)

    def process(self, element: Any) -> Iterator[Any]:
        """Run the step's function on one element."""
        if self._shared is None:
            raise RuntimeError("setup has not run")
        try:
            yield from self.work(element, self._shared)
        except Exception as error:  # noqa: BLE001 - the run raises it; Beam would turn it into text
            self._shared.fail(error)

    def teardown(self) -> None:
        """Close what only this step has open."""
        if self._shared is not None:
            self._shared.close()

    def work(self, element: Any, shared: Shared) -> Iterable[Any]:
        """Outputs of one element."""
        raise NotImplementedError


class TakeGroup(Step):
    """Number -> groups of the wave; documents that are not where they were listed go to the outcomes."""

    def work(self, element: int, shared: Shared) -> Iterable[Any]:
        if shared.stop:
            return
        for group in shared.take(element):
            yield beam.pvalue.TaggedOutput(_OUTCOMES, pack((group,))) if isinstance(group, DeadLetter) else group


class Prepare(Step):
    """Group -> chunk rows; documents and dead letters go to the outcomes."""

    def work(self, element: Group, shared: Shared) -> Iterable[Any]:
        if shared.stop:
            return
        chunked = prepare(element, shared.wave, shared.read)
        yield beam.pvalue.TaggedOutput(_OUTCOMES, pack((*chunked.documents, *chunked.letters)))
        yield from parts_of(chunked.rows, chunked.targets)


class FindKnown(Step):
    """Chunk rows -> units to encode; rows whose vectors are in the lake become references at once."""

    def work(self, element: Rows, shared: Shared) -> Iterable[Any]:
        known, new = split_known(element.rows, shared.encode.lake)
        if known.rows:
            tokens = sum(shared.limits.tokens_of(row) for row in known.rows)
            shared.totals.reused(len(known.rows), tokens)
            shared.progress.reused(tokens, sum(len(row.chunk.encoded_text.encode()) for row in known.rows))
            yield beam.pvalue.TaggedOutput(_KNOWN, pack(replace(known, stores=element.stores)))
        yield from (pack(Rows(unit, element.stores)) for unit in cut_units(new, shared.limits))


class EncodeUnit(Step):
    """Unit -> lake file -> reference; chunks that do not fit in memory go to the outcomes."""

    def work(self, element: bytes, shared: Shared) -> Iterable[Any]:
        if shared.stop:
            return
        shared.load.before_write()
        unit: Rows = unpack(element)
        encoded = encode_unit(unit.rows, shared.encode)
        shared.totals.encoded(encoded.work.texts, encoded.work.tokens, encoded.work.seconds)
        for name, amount in encoded.work.counters.items():
            Metrics.counter("encode", name).inc(amount)
        if encoded.refused:
            yield beam.pvalue.TaggedOutput(_OUTCOMES, pack((Loaded((), encoded.refused),)))
        if encoded.reference.rows:
            yield pack(replace(encoded.reference, stores=unit.stores))


class LoadReference(Step):
    """Reference -> rows in the stores -> acknowledgements."""

    def work(self, element: bytes, shared: Shared) -> Iterable[bytes]:
        if shared.error is None:
            reference: Reference = unpack(element)
            yield pack((load(reference, shared.load),))


class CommitWave(Step):
    """All outcomes of a wave -> manifest delta."""

    def work(self, element: tuple[None, Iterable[bytes]], shared: Shared) -> Iterable[None]:
        shared.finish(chain.from_iterable(map(unpack, element[1])))
        return ()


def as_one(value: Any) -> tuple[None, Any]:
    """The value under the one key of a single step."""
    return None, value


def build(
    pipeline: beam.Pipeline, sharing: Sharing, groups: int, *, spread: bool, hints: Mapping[str, str] | None = None
) -> None:
    """The graph of a wave with so many groups. `spread`: over workers; `hints`: what encoding asks an engine for."""
    numbers = pipeline | "Numbers" >> beam.Create(range(groups), reshuffle=spread)
    taken = numbers | "TakeGroup" >> beam.ParDo(TakeGroup(sharing)).with_outputs(_OUTCOMES, main="groups")
    prepared = taken.groups | "Prepare" >> beam.ParDo(Prepare(sharing)).with_outputs(_OUTCOMES, main="rows")
    found = prepared.rows | "FindKnown" >> beam.ParDo(FindKnown(sharing)).with_outputs(_KNOWN, main="units")
    encode = beam.ParDo(EncodeUnit(sharing))
    encode.with_resource_hints(**(hints or {}))
    spread_units = found.units | "SpreadUnits" >> beam.Reshuffle()
    encoded = spread_units | "Encode" >> encode.with_outputs(_OUTCOMES, main="references")
    references = (
        (encoded.references, found[_KNOWN]) | "References" >> beam.Flatten() | "SpreadReferences" >> beam.Reshuffle()
    )
    loaded = references | "Load" >> beam.ParDo(LoadReference(sharing))
    outcomes = (
        (taken[_OUTCOMES], prepared[_OUTCOMES], encoded[_OUTCOMES], loaded)
        | "Outcomes" >> beam.Flatten()
        | "AsOne" >> beam.Map(as_one)
    )
    outcomes | "Gather" >> beam.GroupByKey() | "Commit" >> beam.ParDo(CommitWave(sharing))


def run_wave(shared: Shared, bundle_repeat: int = 0) -> None:
    """Run one wave in this process. Raises what a step raised; what was finished by then is committed."""
    options = PipelineOptions([], pipeline_type_check=False)
    with quiet_beam():
        pipeline = beam.Pipeline(runner=FnApiRunner(bundle_repeat=bundle_repeat), options=options)
        build(pipeline, Here(shared.name), len(shared.groups), spread=False)
        pipeline.run().wait_until_finish()
    if shared.error is not None:
        raise shared.error


@contextmanager
def quiet_beam() -> Iterator[None]:
    """Beam's warnings and notes are for its developers: only its errors pass, unless its logger was set to debug."""
    logger = logging.getLogger("apache_beam")
    level = logger.level
    if logger.getEffectiveLevel() > logging.DEBUG:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
