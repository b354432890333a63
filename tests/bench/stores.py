"""What the stores cost: load rate beside each client's own bulk helper, search latency, bytes per chunk, recall, nDCG.

    python -m tests.bench.stores --data /path/to/dev [--sets tquad-dev arcd-test] [--rows 2000] [--rounds 3]

Servers are started from published packages. Loads take turns, the fastest of each counts. Bytes of a signal are the
difference that it makes. Stored scores against fp32: nDCG@10 of the weighted sum (1, 0.3, 1), in points.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from connectors.filters.tree import Everything
from connectors.protocol import Connection, EmbeddedSink, LoadingSink, Searcher, StoreOptions
from connectors.registry import open_searcher, signals_of
from m3core.encoder import Encoder
from m3core.evaluate.beir import MIRACL_WEIGHTS, ndcg_rows
from m3core.types import Float32Array, Row, Signal
from tests.bench.multi_storage import storage_table
from tests.bench.store_clients import THEIRS, as_a_run_does, bytes_of, ours, prepared
from tests.bench.store_rows import DevSet, more_rows, read_dev_set, schema_of
from tests.servers.elasticsearch import start_elasticsearch
from tests.servers.milvus import start_milvus

_T = TypeVar("_T")
_LIMIT = 100
_SCORED = 200
_TIMEOUT = 60.0


@dataclass
class Bench:
    """One kind of store with rows of one dev set."""

    kind: str
    dev: DevSet
    place: Path
    url: str
    server_data: Path | None
    made: int = 0

    def options(self, signals: Sequence[Signal], *, keeps_text: bool) -> StoreOptions:
        """A generation of its own, in a folder or under a prefix of its own."""
        self.made += 1
        schema = schema_of(self.dev, signals, keeps_text=keeps_text)
        prefix = f"b{self.made}_" if self.url else ""
        return StoreOptions(
            "bench", self.place / f"{self.made}", schema, 1 << 20, Connection(self.url, prefix=prefix), revision=1
        )

    def loaded(self, rows: Sequence[Row], signals: Sequence[Signal], *, keeps_text: bool) -> StoreOptions:
        """A generation with the rows, ready to be searched."""
        options = self.options(signals, keeps_text=keeps_text)
        sink = prepared(self.kind, options)
        for batch in as_a_run_does(rows):
            sink.write(batch)
        sink.flush()
        if isinstance(sink, EmbeddedSink):
            sink.publish()
        if isinstance(sink, LoadingSink):
            sink.finish_loading()
        sink.close()
        return options


def load_rates(bench: Bench, rows: Sequence[Row], rounds: int) -> dict[str, float]:
    """Rows per second, the fastest round of each way."""
    signals = signals_of(bench.kind)
    ways = {"ours": ours(bench.kind), **THEIRS[bench.kind]}
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, load in ways.items():
            options = bench.options(signals, keeps_text=True)
            best[name] = max(best[name], len(rows) / load(options, rows))
            shutil.rmtree(options.root, ignore_errors=True)
    return best


def asked(kind: str, options: StoreOptions, ask: Callable[[Searcher], _T]) -> _T:
    """`ask` on an open searcher; it runs its requests itself."""
    searcher = open_searcher(kind, options)
    try:
        return ask(searcher)
    finally:
        asyncio.get_event_loop().run_until_complete(searcher.aclose())


def run(request: object) -> object:
    """The answer to one request."""
    return asyncio.get_event_loop().run_until_complete(request)  # type: ignore[arg-type]


def latencies(bench: Bench, options: StoreOptions, rows: Sequence[Row]) -> dict[Signal, tuple[float, float]]:
    """Median and 95th percentile in milliseconds: top 100 by dense and lexical, scores of 200 ids by multi."""
    ids = [row.chunk.id for row in rows[:_SCORED]]

    def measure(searcher: Searcher) -> dict[Signal, tuple[float, float]]:
        found = {}
        for signal in sorted(options.schema.signals):
            times = []
            for query in [*bench.dev.queries[:5], *bench.dev.queries[:60]]:
                began = time.perf_counter()
                if signal is Signal.MULTI:
                    run(searcher.score(signal, query, ids, Everything(), _TIMEOUT))
                else:
                    run(searcher.search(signal, query, Everything(), _LIMIT, _TIMEOUT))
                times.append(1e3 * (time.perf_counter() - began))
            warm = times[5:]
            found[signal] = (statistics.median(warm), float(np.percentile(warm, 95)))
        return found

    return asked(bench.kind, options, measure)


def recalls(bench: Bench, options: StoreOptions, rows: Sequence[Row]) -> dict[Signal, float]:
    """recall@10 against exact search among the rows as they are stored."""
    exact = Bench("memory", bench.dev, bench.place / "memory", "", None)
    signals = sorted(options.schema.signals - {Signal.MULTI})
    queries = bench.dev.queries[:20]
    oracle = exact.loaded(rows, signals, keeps_text=False)

    def tops(searcher: Searcher) -> list[set[str]]:
        return [
            {hit.id for hit in run(searcher.search(signal, query, Everything(), 10, _TIMEOUT))}  # type: ignore[attr-defined]
            for signal in signals
            for query in queries
        ]

    found, wanted = asked(bench.kind, options, tops), asked("memory", oracle, tops)
    hits = [len(one & other) / max(1, len(other)) for one, other in zip(found, wanted, strict=True)]
    count = len(queries)
    return {signal: statistics.mean(hits[count * at : count * at + count]) for at, signal in enumerate(signals)}


def bytes_per_chunk(bench: Bench, rows: Sequence[Row]) -> dict[str, float]:
    """Of a bare row with the first signal, then what each further signal and the text add."""
    signals = list(signals_of(bench.kind))
    sizes: dict[str, float] = {}
    before = 0
    for count in range(1, len(signals) + 2):
        with_text = count > len(signals)
        base = (
            bytes_of(bench.kind, bench.options(signals, keeps_text=True), bench.server_data) if bench.server_data else 0
        )
        options = bench.loaded(rows, signals[:count], keeps_text=with_text)
        size = bytes_of(bench.kind, options, bench.server_data) - base
        sizes["text" if with_text else signals[count - 1].value] = (size - before) / len(rows)
        before = size
    return sizes


def stored_loss(bench: Bench) -> float:
    """Points of nDCG@10 that the scores of this store lose against fp32, its signals alone exchanged."""
    options = bench.loaded(bench.dev.rows, signals_of(bench.kind), keeps_text=True)
    ids = [row.chunk.id for row in bench.dev.rows]

    def scores(searcher: Searcher) -> dict[Signal, Float32Array]:
        matrices = {}
        for signal in options.schema.signals:
            answers = [run(searcher.score(signal, query, ids, Everything(), _TIMEOUT)) for query in bench.dev.queries]
            matrices[signal] = np.array([[answer[chunk_id] for chunk_id in ids] for answer in answers], np.float32)  # type: ignore[index]
        return matrices

    stored = {**bench.dev.exact, **asked(bench.kind, options, scores)}
    return 100 * (_fused(bench.dev, bench.dev.exact) - _fused(bench.dev, stored))


def _fused(dev: DevSet, matrices: object) -> float:
    parts = [np.float32(MIRACL_WEIGHTS.of(signal)) * matrices[signal] for signal in Signal]  # type: ignore[index]
    return float(ndcg_rows(np.sum(parts, axis=0), dev.gains).mean())


def report(bench: Bench, rows: Sequence[Row], rounds: int) -> None:
    rates = load_rates(bench, rows, rounds)
    theirs = {name: rate for name, rate in rates.items() if name != "ours"}
    best = max(theirs, key=lambda name: theirs[name])
    options = bench.loaded(rows, signals_of(bench.kind), keeps_text=True)
    found, times = recalls(bench, options, rows), latencies(bench, options, rows)
    shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in theirs.items())
    print(f"\n{bench.kind}, {len(rows):,} rows of {bench.dev.name}")
    print(f"  load      ours {rates['ours']:,.0f} rows/s; {shown}: {rates['ours'] / theirs[best]:.2f} of {best}")
    for signal, (median, most) in times.items():
        what = f"scores of {_SCORED}" if signal is Signal.MULTI else f"top {_LIMIT}"
        recall = f", recall@10 {found[signal]:.3f}" if signal in found else ""
        print(f"  {signal:<9} {what}: p50 {median:.1f} ms, p95 {most:.1f} ms{recall}")
    sizes = ", ".join(f"{name} {size:,.0f}" for name, size in bytes_per_chunk(bench, rows).items())
    print(f"  bytes per chunk, one upon the other: {sizes}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of dev sets in BEIR's layout")
    parser.add_argument("--sets", nargs="+", default=["tquad-dev", "arcd-test"])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--kinds", nargs="+", default=list(THEIRS))
    options = parser.parse_args()
    asyncio.set_event_loop(asyncio.new_event_loop())
    encoder = Encoder.load("m3-small")
    sets = [read_dev_set(encoder, options.data / name, options.queries) for name in options.sets]
    rows = more_rows(sets[0], options.rows)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3-bench-")))
        benches = [_bench(kind, sets[0], place / kind, stack) for kind in options.kinds]
        for bench in benches:
            report(bench, rows, options.rounds)
        for bench in benches:
            losses = [f"{dev.name} {stored_loss(replace(bench, dev=dev)):+.2f}" for dev in sets]
            print(f"{bench.kind}: stored against fp32 loses {', '.join(losses)} points of nDCG@10", flush=True)
        storage_table(sets[0], rows, place / "storage")
    return 0


def _bench(kind: str, dev: DevSet, place: Path, stack: ExitStack) -> Bench:
    if kind == "elasticsearch":
        node = start_elasticsearch(place)
        stack.callback(node.process.stop)
        return Bench(kind, dev, place, node.url, None)
    if kind == "milvus":
        server = start_milvus(place)
        stack.callback(server.process.stop)
        return Bench(kind, dev, place, server.url, place / "data")
    return Bench(kind, dev, place, "", None)


if __name__ == "__main__":
    sys.exit(main())
