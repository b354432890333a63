"""One store against what it should hold: a merge of two ascending scans, then what its rows say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from connectors.filters.tree import Everything
from connectors.protocol import Searcher
from m3core.errors import StoreError
from pipelines.operate.expected import Expected, ExpectedRow
from pipelines.operate.findings import Finding, Findings
from pipelines.operate.stores import SECONDS, Store

_FETCHED = 500


@dataclass
class Compared:
    """What the merge counted besides findings. `pending` rows wait for the next run; `in_flight` ones are of the run
    that is at work."""

    rows: int = 0
    pending: int = 0
    in_flight: int = 0


def compare_rows(store: Store, expected: Expected, findings: Findings, running: int | None) -> Compared:
    """Ids and revisions of the store against the expected ones, both in order, neither held in memory.

    `running`: number of the run that is at work; what it wrote is not judged. StoreError if the store's scan is not
    ascending, or if it does not answer.
    """
    compared = Compared()
    if not store.published:
        for row in expected.rows():
            _judge(store.name, row, None, compared, findings, running)
        return compared
    with store.sink() as sink:
        scanned = _ascending(store.name, sink.scan())
        for wanted, found in merge(expected.rows(), scanned):
            compared.rows += found is not None
            if wanted is not None:
                _judge(store.name, wanted, found and found[1], compared, findings, running)
            elif found is not None:
                _judge_extra(store.name, found, compared, findings, running)
    return compared


def merge(
    expected: Iterable[ExpectedRow], scanned: Iterable[tuple[str, int]]
) -> Iterator[tuple[ExpectedRow | None, tuple[str, int] | None]]:
    """Pairs of equal id, and each that has no other; both inputs ascend by id, without repetitions."""
    left, right = iter(expected), iter(scanned)
    row, found = next(left, None), next(right, None)
    while row is not None or found is not None:
        if found is None or (row is not None and row.id < found[0]):
            yield row, None
            row = next(left, None)
        elif row is None or found[0] < row.id:
            yield None, found
            found = next(right, None)
        else:
            yield row, found
            row, found = next(left, None), next(right, None)


def _ascending(store: str, scanned: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    before = ""
    for found in scanned:
        if found[0] <= before:
            raise StoreError(f"store {store!r}: its scan is not ascending by id", "report this fault of the connector")
        before = found[0]
        yield found


def _judge(
    store: str, row: ExpectedRow, found: int | None, compared: Compared, findings: Findings, running: int | None
) -> None:
    if row.obsolete:
        compared.pending += found is not None
        return
    if found == row.revision:
        return
    if store in row.pending:
        compared.pending += 1
    elif running is not None and found is not None and found >= running:
        compared.in_flight += 1
    else:
        kind = "missing" if found is None else "stale" if found < row.revision else "ahead"
        findings.add(Finding(store, kind, row.id, row.tenant, row.doc_id, row.revision, found or 0))


def _judge_extra(
    store: str, found: tuple[str, int], compared: Compared, findings: Findings, running: int | None
) -> None:
    if running is not None and found[1] >= running:
        compared.in_flight += 1
    else:
        findings.add(Finding(store, "extra", found[0], found=found[1]))


def compare_acls(store: Store, expected: Expected, findings: Findings) -> int:
    """Principals of every row against its chunk row's, where the store gives them back; how many were compared."""

    async def compare(searcher: Searcher) -> int:
        compared = 0
        rows = (row for row in expected.rows() if row.acl is not None and not row.obsolete and not row.pending)
        while batch := {row.id: row for row in islice(rows, _FETCHED)}:
            for name, payload in (await searcher.fetch(list(batch), Everything(), SECONDS)).items():
                row = batch[name]
                if payload.revision != row.revision:
                    continue  # found by the merge
                compared += 1
                if set(payload.acl) != set(row.acl or ()):
                    findings.add(
                        Finding(store.name, "wrong_acl", row.id, row.tenant, row.doc_id, row.revision, row.revision)
                    )
        return compared

    return store.ask(compare) if store.published else 0
