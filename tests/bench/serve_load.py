"""What `m3 serve` carries: searches a second with and without encoding, the router's own share, and an overload.

    python -m tests.bench.serve_load encode -c m3.toml --queries queries.jsonl ...     the encoder alone
    python -m tests.bench.serve_load legs   -c m3.toml --queries queries.jsonl ...     the router over its stores' legs
    python -m tests.bench.serve_load http   -c m3.toml --queries queries.jsonl ... --vegeta PATH [--seconds 30]
    python -m tests.bench.serve_load soak   -c m3.toml --queries queries.jsonl ... --vegeta PATH --rate N [--minutes 10]

The load comes from vegeta (https://github.com/tsenart/vegeta; go install github.com/tsenart/vegeta/v12@v12.13.0), on
the same machine: it keeps its rate whatever the service does, so that an overload is one. `http` asks questions that
nobody asked before as fast as 16 at once go, then a few known ones, whose vectors the service remembers, at a quiet
rate. `soak` asks --rate times a second: take 1.2 times what `http` found.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from connectors.protocol import Searcher
from m3core.config.load import LoadedConfig, load_config
from m3core.types import Identity
from pipelines.query.breaker import Breakers
from pipelines.query.encoding import ModelEncoder
from pipelines.query.live import LiveGeneration
from pipelines.query.request import SearchRequest
from pipelines.query.router import Router
from pipelines.query.service.apart import open_apart

M3 = [sys.executable, "-c", "import sys; from pipelines.cli.main import main; sys.exit(main())"]
AT_ONCE = 16
QUIET_RATE = 5
KNOWN = 20
LEGS = 200
SAMPLE_SECONDS = 5.0
SETTLED_MINUTES = 2.0
AT_ONCE_KINDS = ("search", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["encode", "legs", "http", "soak"])
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--queries", type=Path, nargs="+", required=True, help="JSON lines with a text each")
    parser.add_argument("--vegeta", type=Path)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=0)
    options = parser.parse_args()
    texts = [json.loads(line)["text"] for path in options.queries for line in path.open(encoding="utf-8")]
    loaded = load_config(options.config, os.environ)
    {"encode": encode, "legs": legs, "http": http, "soak": soak}[options.what](options, loaded, texts)


def encode(options: argparse.Namespace, loaded: LoadedConfig, texts: Sequence[str]) -> None:
    """Queries a second through the micro-batches of the service, `AT_ONCE` callers, nothing else."""

    async def run() -> int:
        encoder = ModelEncoder(loaded.config.model, loaded.base)
        await encoder.ready()
        waiting, done = iter(texts), 0
        end = time.monotonic() + options.seconds

        async def caller() -> None:
            nonlocal done
            for text in waiting:
                if time.monotonic() > end:
                    return
                await encoder.encode_query(text)
                done += 1

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        await encoder.aclose()
        return done

    began = time.monotonic()
    done = asyncio.run(run())
    print(f"encoder alone, {AT_ONCE} callers: {done / (time.monotonic() - began):.1f} queries/s ({done} queries)")


@dataclass
class Timed:
    """A searcher that notes the time of each call; calls of one kind in one search are a round."""

    inner: Searcher
    spent: list[tuple[str, float]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self.inner, name)
        if name not in ("search", "score", "fetch"):
            return asked

        async def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return await asked(*arguments)
            finally:
                self.spent.append((name, time.perf_counter() - began))

        return timed


class TimedBreakers(Breakers):
    """Puts a `Timed` in front of every store of a search."""

    timed: dict[str, Timed]

    def guard(self, searchers: Any) -> dict[str, Searcher]:
        self.timed = {name: Timed(each) for name, each in searchers.items()}
        return super().guard(self.timed)  # type: ignore[arg-type]


def legs(options: argparse.Namespace, loaded: LoadedConfig, texts: Sequence[str]) -> None:
    """Time of a search that is not encoding and not its rounds' slowest legs, one search after the other."""
    del options
    breakers = TimedBreakers()
    router = replace(
        Router.open(loaded.config, loaded.base),
        stores=LiveGeneration(loaded.config, loaded.base, open_apart),
        breakers=breakers,
    )
    asker = Identity(loaded.config.search.tenant, loaded.config.search.principals)

    async def run() -> list[tuple[float, float, float]]:
        await router.warm()
        found = []
        for text in texts[:LEGS]:
            await router.encoder.encode_query(text)
            began = time.perf_counter()
            answer = await router.search(SearchRequest(text, asker))
            total = time.perf_counter() - began
            assert not answer.degraded
            if answer.rounds > 1:
                continue
            calls = [call for each in breakers.timed.values() for call in each.spent]
            # Stores are asked at once for candidates, and for scores; pages of texts are fetched one after the other.
            slowest = sum(max((took for kind, took in calls if kind == each), default=0.0) for each in AT_ONCE_KINDS)
            slowest += sum(took for kind, took in calls if kind == "fetch")
            found.append((total, slowest, total - slowest))
        await router.aclose()
        return found

    found = asyncio.run(run())
    for name, column in zip(("search", "slowest legs", "router's own"), zip(*found, strict=True), strict=True):
        print(f"{name:<14}{told(sorted(column))}")


def http(options: argparse.Namespace, loaded: LoadedConfig, texts: Sequence[str]) -> None:
    """Through the service: as fast as it goes with new questions, then a few known ones at a quiet rate."""
    with serving(options) as (url, _):
        name = loaded.config.collection.name
        known = [searched(url, name, text) for text in texts[:KNOWN]]
        attack(options, known, ["-rate=4", f"-duration={len(known) // 2}s"])
        new = [searched(url, name, text) for text in texts[KNOWN:]]
        fast = attack(options, new, ["-rate=0", f"-max-workers={AT_ONCE}", f"-duration={options.seconds}s"])
        asked = min(len(new), fast["requests"])
        print(f"new questions, {AT_ONCE} at once: {fast['throughput']:.1f} searches/s, {shown(fast)}; {asked} new")
        quiet = attack(options, known, [f"-rate={QUIET_RATE}", f"-duration={options.seconds}s"])
        print(f"known questions, {QUIET_RATE}/s: {shown(quiet)}")


def soak(options: argparse.Namespace, loaded: LoadedConfig, texts: Sequence[str]) -> None:
    """More than the service carries, for minutes: what it refuses, and what it keeps in memory."""
    with serving(options) as (url, process):
        targets = [searched(url, loaded.config.collection.name, text) for text in texts]
        load = start(options, targets, [f"-rate={options.rate}", f"-duration={60 * options.minutes:.0f}s"])
        samples: list[tuple[float, float, float]] = []
        began = time.monotonic()
        while load.poll() is None:
            samples.append(((time.monotonic() - began) / 60, *memory(process.pid)))
            time.sleep(SAMPLE_SECONDS)
        told = report(options, load)
        print(f"{options.rate}/s for {options.minutes:g} min: {told['throughput']:.1f} answered/s, {shown(told)}")
        for place, what in ((1, "resident"), (2, "anonymous")):
            late = [(minute, row[place]) for row in samples if (minute := row[0]) >= SETTLED_MINUTES]
            slope = statistics.linear_regression(*zip(*late, strict=True)).slope if len(late) > 2 else float("nan")
            print(f"{what} memory {samples[0][place]:.0f} to {samples[-1][place]:.0f} MB, {slope:+.2f} MB/min")


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The service as a process, once it is ready."""
    import httpx

    log = options.config.resolve().parent / "serve.log"
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [*M3, "serve", "-c", str(options.config), "--port", "0"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        began = time.monotonic()
        try:
            assert process.stdout is not None
            found = re.search(r" at (http://\S+)/$", process.stdout.readline().rstrip())
            assert found is not None, log.read_text()
            while httpx.get(f"{found[1]}/readyz", timeout=60).status_code != 200:
                time.sleep(0.05)
            print(f"ready after {time.monotonic() - began:.1f} s")
            yield found[1], process
        finally:
            process.terminate()
            process.wait()


def searched(url: str, collection: str, text: str) -> str:
    """One target of vegeta's."""
    body = base64.b64encode(json.dumps({"query": text, "limit": 10}).encode()).decode()
    header = {"Content-Type": ["application/json"]}
    address = f"{url}/v1/collections/{collection}/search"
    return json.dumps({"method": "POST", "url": address, "header": header, "body": body})


def start(options: argparse.Namespace, targets: Sequence[str], arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    folder = options.config.resolve().parent
    (folder / "targets.jsonl").write_text("\n".join(targets) + "\n", encoding="utf-8")
    command = [options.vegeta, "attack", "-format=json", f"-targets={folder / 'targets.jsonl'}", "-timeout=60s"]
    return subprocess.Popen([*command, f"-output={folder / 'results.bin'}", *arguments])


def report(options: argparse.Namespace, load: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert load.wait() == 0
    results = options.config.resolve().parent / "results.bin"
    done = subprocess.run([options.vegeta, "report", "-type=json", results], check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def attack(options: argparse.Namespace, targets: Sequence[str], arguments: Sequence[str]) -> dict[str, Any]:
    return report(options, start(options, targets, arguments))


def shown(found: dict[str, Any]) -> str:
    times = found["latencies"]
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(found["status_codes"].items()))
    parts = ", ".join(f"p{part} {times[f'{part}th'] / 1e6:.0f} ms" for part in (50, 95, 99))
    return f"{parts}; {statuses}"


def told(seconds: Sequence[float]) -> str:
    parts = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    return "   ".join(f"{name} {1e3 * seconds[int(part * len(seconds))]:6.1f} ms" for name, part in parts)


def memory(pid: int) -> tuple[float, float]:
    """Resident and anonymous MB of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    texts = [Path(f"/proc/{each}/status").read_text() for each in (str(pid), *children)]
    sums = [sum(int(re.findall(rf"{name}:\s+(\d+)", text)[0]) for text in texts) for name in ("VmRSS", "RssAnon")]
    return sums[0] / 1024, sums[1] / 1024


if __name__ == "__main__":
    main()
