"""How long a search takes: cold as a command, warm in one process with its encoding.

python tests/bench/search_time.py -c m3.toml [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from m3core.config.load import load_config
from m3core.types import Identity
from pipelines.cli.demo_run import read_questions
from pipelines.query.request import SearchRequest
from pipelines.query.router import SyncRouter

COLD_LIMIT, WARM_LIMIT = 10.0, 0.150


def cold(config: Path, query: str) -> float:
    """Seconds of one `m3 search` as a process."""
    code = "import sys; from pipelines.cli.main import main; sys.exit(main(sys.argv[1:]))"
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, "search", "-c", config, "--json", query], check=True, capture_output=True
    )
    return time.perf_counter() - started


def warm(config: Path, queries: list[str], rounds: int) -> list[float]:
    """Seconds of each search in one warm process."""
    loaded = load_config(config, os.environ)
    asker = Identity(loaded.config.search.tenant, loaded.config.search.principals)
    times = []
    with SyncRouter.open(loaded.config, loaded.base) as router:
        router.warm()
        for query in queries * rounds:
            started = time.perf_counter()
            router.search(SearchRequest(query, asker))
            times.append(time.perf_counter() - started)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    queries = [question.query for question in read_questions()]
    colds = [cold(options.config, query) for query in queries[:3]]
    warms = sorted(warm(options.config, queries, options.rounds))
    p95 = warms[int(len(warms) * 0.95)]
    print(f"cold command   best {min(colds):6.2f} s    worst {max(colds):6.2f} s    limit {COLD_LIMIT:.0f} s")
    print(f"warm search    p50 {statistics.median(warms) * 1e3:6.0f} ms   p95 {p95 * 1e3:6.0f} ms   limit 150 ms")
    return int(max(colds) > COLD_LIMIT or p95 > WARM_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
