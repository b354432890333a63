"""The graph of a wave without Beam: the same functions in the same order, where a test makes thousands of waves.

Beam takes a fifth of a second to build and to run a graph of two elements. What its transforms add, `graph.py`'s own
tests show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipelines.ingest.commit import Outcome, commit_wave
from pipelines.ingest.embed import Reference, cut_units, encode_unit, split_known
from pipelines.ingest.load import Loaded, load
from pipelines.ingest.reading import Rows, parts_of, prepare
from pipelines.ingest.shared import Shared


def run_wave(shared: Shared, bundle_repeat: int = 0) -> None:
    """As pipelines.ingest.graph.run_wave; what kills a run (no Exception) passes through."""
    outcomes: list[Outcome] = []
    references: list[Reference] = []
    try:
        for group in shared.groups:
            if shared.stop:
                break
            chunked = prepare(group, shared.wave, shared.read)
            outcomes += [*chunked.documents, *chunked.letters]
            for part in parts_of(chunked.rows, chunked.targets):
                references += _references(part, shared, outcomes)
        for reference in references:
            if shared.error is None:
                outcomes.append(load(reference, shared.load))
    except Exception as error:  # noqa: BLE001 - as the graph's steps do
        shared.fail(error)
    try:
        shared.committed = commit_wave(shared.wave, outcomes, shared.commit)
    except Exception as error:  # noqa: BLE001
        shared.fail(error)
    if shared.error is not None:
        raise shared.error


def _references(part: Rows, shared: Shared, outcomes: list[Outcome]) -> Iterator[Reference]:
    known, new = split_known(part.rows, shared.encode.lake)
    if known.rows:
        shared.totals.reused(len(known.rows), sum(shared.limits.tokens_of(row) for row in known.rows))
        yield replace(known, stores=part.stores)
    for unit in cut_units(new, shared.limits):
        if shared.stop:
            return
        shared.load.before_write()
        encoded = encode_unit(unit, shared.encode)
        shared.totals.encoded(encoded.work.texts, encoded.work.tokens, encoded.work.seconds)
        if encoded.refused:
            outcomes.append(Loaded((), encoded.refused))
        if encoded.reference.rows:
            yield replace(encoded.reference, stores=part.stores)
