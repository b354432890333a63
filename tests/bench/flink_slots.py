"""Two slots of a Flink cluster against one: seconds of the encode step and of the whole run, and what crosses shuffles.

    python -m tests.bench.flink_slots [--megabytes 2] [--cases fake model skewed]

`fake`: an encoder of a fixed cost per token that releases the CPU. `model`: m3-small with one thread per worker.
`skewed`: the fake encoder where one JSON Lines file has 90 % of the bytes. Texts are new in every run (`m3 embed`: no
store is at work); the cluster is a real one on this machine, its cores should be quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3core.config.model import Config
from m3core.zoo import m3_small
from pipelines.cli.runner import runner_of
from pipelines.ingest.progress import NoProgress
from pipelines.ingest.run import ingest
from pipelines.ingest.session import IngestOptions
from tests.flink.samples import on
from tests.servers.flink import FlinkCluster, running_flink

_SECONDS_PER_TOKEN = 1e-4
_FILES = 10
_WORDS = [f"{first}{second}" for first in ("ka", "lo", "mi", "ne", "ru", "sta", "ter") for second in ("na", "li", "do")]


@dataclass(frozen=True)
class Timed:
    """One run: seconds of the job, and of the encode step in it, and bytes between its steps per document."""

    encode: float
    job: float
    bytes_per_document: float
    tokens: int


def write_corpus(folder: Path, size: int, shares: Sequence[float]) -> int:
    """JSON Lines files with those shares of `size` bytes; how many documents."""
    drawn = random.Random(7)
    folder.mkdir()
    documents = 0
    for number, share in enumerate(shares):
        with (folder / f"part{number}.jsonl").open("w") as file:
            while file.tell() < share * size:
                text = " ".join(drawn.choices(_WORDS, k=400))
                file.write(json.dumps({"doc_id": f"{number}-{documents}", "text": text}) + "\n")
                documents += 1
    return documents


def timed(cluster: FlinkCluster, folder: Path, model: str, shares: Sequence[float], size: int, slots: int) -> Timed:
    """A first run over a fresh corpus, with so many of the cluster's slots."""
    documents = write_corpus(folder / "docs", size, shares)
    config = Config.model_validate(
        {
            "collection": {"name": "bench"},
            "model": {"name": model, "threads": 1},
            "sources": {"docs": {"kind": "jsonl", "path": "docs", "acl": ["everyone"]}},
            "runner": {**on(cluster), "parallelism": slots, "split_bytes": 1 << 18},
        }
    )
    asked = IngestOptions(runner=runner_of(config, load=False), load=False)
    report = ingest(config, folder, NoProgress(), options=asked)
    job = newest_job(cluster)
    (encode,) = (step for step in job["vertices"] if "Encode" in step["name"])
    crossed = sum(int(step["metrics"]["write-bytes"]) for step in job["vertices"])
    return Timed(encode["duration"] / 1000, job["duration"] / 1000, crossed / documents, report.tokens_encoded)


def newest_job(cluster: FlinkCluster) -> Mapping[str, Any]:
    """What the JobManager says of the last job."""
    jobs = cluster.ask("/jobs/overview")["jobs"]
    found: Mapping[str, Any] = cluster.ask(f"/jobs/{max(jobs, key=lambda job: job['start-time'])['jid']}")
    return found


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=2.0)
    parser.add_argument("--cases", nargs="+", choices=["fake", "model", "skewed"], default=["fake", "model", "skewed"])
    given = parser.parse_args(arguments)
    root = Path(__file__).parents[2]
    model = str(m3_small.folder())
    print("| case | slots | tokens | encode step s | job s | bytes between steps per document | encode step, times |")
    print("|---|---|---|---|---|---|---|")
    for case in given.cases:
        path = [str(root)] if case == "model" else [str(root / "tests" / "bench" / "slow_encoder"), str(root)]
        env = {
            "PYTHONPATH": os.pathsep.join(path),
            "OMP_NUM_THREADS": "1",
            "M3_BENCH_SECONDS_PER_TOKEN": str(_SECONDS_PER_TOKEN),
        }
        shares = [0.9] + [0.1 / _FILES] * _FILES if case == "skewed" else [1 / _FILES] * _FILES
        with (
            tempfile.TemporaryDirectory(prefix="m3-slots-") as folder,
            running_flink(Path(folder), 2, **env) as cluster,
        ):
            first = 0.0
            for slots in (1, 2):
                place = Path(folder) / f"{case}{slots}"
                place.mkdir()
                found = timed(cluster, place, model, shares, int(given.megabytes * (1 << 20)), slots)
                first = first or found.encode
                print(
                    f"| {case} | {slots} | {found.tokens:,} | {found.encode:.1f} | {found.job:.1f} | "
                    f"{found.bytes_per_document:,.0f} | {first / found.encode:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:])
