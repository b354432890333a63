"""How long `m3 --help` takes, as a process: best and median of ten. Run it: python tests/bench/help_time.py"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMIT = 0.3
RUNS = 10


def seconds() -> float:
    started = time.perf_counter()
    code = "import sys; from pipelines.cli.main import main; sys.exit(main(['--help']))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> int:
    times = [seconds() for _ in range(RUNS)]
    print(f"m3 --help: best {min(times):.3f} s, median {statistics.median(times):.3f} s, limit {LIMIT} s")
    return int(min(times) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
