"""The second half of an ingest: references become rows in the stores, from chunk rows and lake alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from connectors.protocol import Failure, Sink, WriteResult
from m3core.errors import StoreError
from m3core.types import ChunkVectors, Row
from pipelines.ingest.embed import Reference, Refused
from pipelines.ingest.stores import Stores
from pipelines.state.lake import Lake

# One write: bounded rows and bounded bytes of vectors, whatever the store. With m3-small a unit is one write.
_BATCH_ROWS = 1024
_BATCH_BYTES = 32 << 20
_READ_ROWS = 256
_ATTEMPTS = 5
_BACKOFF_SECONDS = 0.5
_BACKOFF_LIMIT = 20.0


@dataclass(frozen=True)
class Loaded:
    """Ids that every store at work acknowledged, and the rows that one refused. `given_up`: stores that this process
    will not ask any more, and why (the error's message and remedy); the commit may run in another one."""

    acknowledged: tuple[str, ...]
    refused: tuple[Refused, ...]
    given_up: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadStep:
    """What loading needs. `before_write` runs before every request: it checks lease and free space.

    `written(rows)` is told the rows that all stores at work acknowledged.
    """

    stores: Stores
    lake: Lake
    before_write: Callable[[], None]
    written: Callable[[int], None] = field(default=lambda rows: None)
    sleep: Callable[[float], None] = time.sleep


def load(reference: Reference, step: LoadStep) -> Loaded:
    """Write the rows of one reference into its stores, in bounded batches; returns after the acknowledgements.

    A batch goes into all servers at once, so that it takes as long as the slowest, then into the embedded stores. A
    server that still does not take rows after the retries is given up. Raises StoreError if an embedded store fails,
    or if no store is left.
    """
    acknowledged: list[str] = []
    refused: list[Refused] = []
    if not _names(reference, step):
        return Loaded(tuple(row.chunk.id for row in reference.rows), (), _given_up(step))
    for rows in _batches(reference, step):
        failures = _write_everywhere(rows, reference, step)
        failed = {each.chunk_id for each in failures}
        refused += failures
        taken = [row.chunk.id for row in rows if row.chunk.id not in failed]
        acknowledged += taken
        step.written(len(taken))
    return Loaded(tuple(acknowledged), tuple(refused), _given_up(step))


def _write_everywhere(rows: Sequence[Row], reference: Reference, step: LoadStep) -> list[Refused]:
    """Write a batch into its stores; what they refused.

    Each server has a thread of its own; an error is raised when all have ended, so that nothing is written after it.
    Embedded stores come last: from its first row to the run's end such a store is locked for others on this machine.
    """

    def write(name: str) -> list[Refused]:
        failures = step.stores.attempt(name, partial(write_batch, name, rows=rows, step=step)) or ()
        return [Refused(each.id, "load", f"store {name}: {each.reason}", name) for each in failures]

    servers = [name for name in _names(reference, step) if name in step.stores.servers]
    with ThreadPoolExecutor(max(1, len(servers)), thread_name_prefix="load") as threads:
        writing = [threads.submit(write, name) for name in servers]
        wait(writing)
    refused = [each for one in writing for each in one.result()]
    embedded = [name for name in _names(reference, step) if name in step.stores.embedded]
    return refused + [each for name in embedded for each in write(name)]


def write_batch(name: str, sink: Sink, rows: Sequence[Row], step: LoadStep) -> list[Failure]:
    """Write rows into one store; transient failures are tried again with full jitter, the others returned.

    Raises StoreError when rows keep failing transiently, or when the store's count of acknowledgements is wrong.
    """
    left = list(rows)
    refused: list[Failure] = []
    for attempt in range(_ATTEMPTS):
        step.before_write()
        result = sink.write(left)
        _check_count(name, len(left), result)
        again = {failure.id for failure in result.failures if failure.kind == "transient"}
        refused += [failure for failure in result.failures if failure.kind != "transient"]
        left = [row for row in left if row.chunk.id in again]
        if not left:
            return refused
        step.sleep(random.uniform(0, min(_BACKOFF_LIMIT, _BACKOFF_SECONDS * 2**attempt)))  # noqa: S311 - jitter
    raise StoreError(
        f"store {name}: {len(left)} rows were not taken in {_ATTEMPTS} attempts",
        "see why the store is busy, then m3 load --pending: vectors wait in the lake",
    )


def _names(reference: Reference, step: LoadStep) -> list[str]:
    """Stores at work that the rows are for."""
    wanted = reference.stores
    return [name for name in step.stores.at_work if wanted is None or name in wanted]


def _given_up(step: LoadStep) -> Mapping[str, tuple[str, str]]:
    return {name: (error.message, error.remedy) for name, error in step.stores.standing.down.items()}


def _check_count(name: str, sent: int, result: WriteResult) -> None:
    if result.acknowledged + len(result.failures) != sent:
        raise StoreError(
            f"store {name}: acknowledged {result.acknowledged} and refused {len(result.failures)} of {sent} rows",
            "this is a fault of the connector; run m3 ingest again and report it if it stays",
        )


def _batches(reference: Reference, step: LoadStep) -> Iterator[list[Row]]:
    """Rows of a reference in its order; besides the batch, what is read at once is in memory."""
    batch: list[Row] = []
    size = 0
    for row in _rows(reference, step.lake):
        row_bytes = vector_bytes(row.vectors)
        if batch and (len(batch) == _BATCH_ROWS or size + row_bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row_bytes
    yield batch


def _rows(reference: Reference, lake: Lake) -> Iterator[Row]:
    pairs = iter(zip(reference.rows, reference.vectors, strict=True))
    while part := list(islice(pairs, _READ_ROWS)):
        for (row, _), vectors in zip(part, lake.read([place for _, place in part]), strict=True):
            yield Row(row.chunk, vectors, row.run)


def vector_bytes(vectors: ChunkVectors) -> int:
    """Bytes of the stored vectors of one row."""
    return vectors.dense.nbytes + vectors.lexical_ids.nbytes + vectors.lexical_weights.nbytes + vectors.multi.nbytes
