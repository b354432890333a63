"""What an ingest costs besides the model: synthetic documents, a fake encoder, a store that only counts.

python -m tests.bench.ingest_scale --documents 100000 [--folder DIR] [--phases plan,ingest,again,update,acl,audit]

Every phase is a process of its own, so that its peak memory is its own. `again` finds everything unchanged, `update`
one document of a hundred changed, `acl` the rights of all. The table goes to tests/bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3core.config.model import Config

PHASES = ("plan", "ingest", "again", "update", "acl", "audit")
_WORDS = ("key", "laboratory", "door", "lamp", "desk", "guard", "night", "train", "refund", "valve", "pump", "shelf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--only", choices=PHASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.only, options.folder)))
        return 0
    with tempfile.TemporaryDirectory(prefix="m3-scale-") as temporary:
        table(options.documents, options.folder or Path(temporary), options.phases.split(","))
    return 0


def table(documents: int, folder: Path, phases: list[str]) -> None:
    """Make the sources, run every phase in a process of its own, print a line each."""
    folder.mkdir(parents=True, exist_ok=True)
    from tests.tiny import make_tiny_model

    make_tiny_model(folder / "tiny")
    print(f"{documents:,} documents   phase  seconds  documents/s  peak MiB  state bytes/document  what")
    for phase in phases:
        write_source(folder, documents, phase)
        command = [sys.executable, "-m", "tests.bench.ingest_scale", "--only", phase, "--folder", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        state = sum(path.stat().st_size for path in (folder / "m3-data" / "state").rglob("*") if path.is_file())
        print(
            f"{phase:>24}  {found['seconds']:7.1f}  {documents / found['seconds']:11,.0f}  {found['peak'] >> 20:8,}"
            f"  {state / documents:20,.0f}  {found['what']}",
            flush=True,
        )


def write_source(folder: Path, documents: int, phase: str) -> None:
    """The JSON lines as they are in a phase; one document in a hundred changes with `update`, all rights with `acl`."""
    updated = phase in ("update", "acl", "audit")
    acl = ["staff", "board"] if phase in ("acl", "audit") else ["staff"]
    lines = (json.dumps({**document(number, updated=updated), "acl": acl}) + "\n" for number in range(documents))
    with (folder / "rows.jsonl").open("w") as file:
        file.writelines(lines)


def document(number: int, *, updated: bool) -> dict[str, Any]:
    """About 50 words of its own: one chunk."""
    words = [f"{_WORDS[(number * 7 + place * 3) % len(_WORDS)]}{(number + place) % 97}" for place in range(40)]
    news = " This paragraph is new." if updated and number % 100 == 0 else ""
    return {"doc_id": f"d{number:08}", "text": f"Note {number}. " + " ".join(words) + "." + news}


def measured(phase: str, folder: Path) -> dict[str, Any]:
    """Run one phase here; seconds without the imports, and the peak of anonymous memory."""
    from pipelines.ingest.memory import MemoryPeak
    from tests.bench import counting_store
    from tests.pipelines import fake_encoder
    from tests.tiny import HIDDEN, MULTI_DIM

    patch = pytest.MonkeyPatch()
    counting_store.install(patch)
    encoder = fake_encoder.install(patch, HIDDEN, MULTI_DIM)
    config = Config.model_validate(settings(folder))
    run = work_of(phase, config, folder)
    started = time.perf_counter()
    with MemoryPeak() as memory:
        what = run()
    return {
        "seconds": time.perf_counter() - started,
        "peak": memory.bytes(),
        "what": f"{what}, {encoder.texts:,} texts encoded",
    }


def work_of(phase: str, config: Config, base: Path) -> Callable[[], str]:
    """What a phase does, with everything imported."""
    from pipelines.ingest import graph  # noqa: F401 - imported before the clock starts
    from pipelines.ingest.planning import plan
    from pipelines.ingest.progress import NoProgress
    from pipelines.ingest.run import ingest
    from pipelines.operate.audit import audit, work_folder
    from pipelines.operate.collection import Place

    def ingested() -> str:
        counts = ingest(config, base, NoProgress()).documents.as_json()
        return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count and name != "listed")

    def planned() -> str:
        return f"{plan(config, base).documents.added:,} new"

    def audited() -> str:
        place = Place.of(config, base)
        with work_folder(place) as folder:
            return "clean" if audit(place, folder, sample=0).clean else "not clean"

    return {"plan": planned, "audit": audited}.get(phase, ingested)


def settings(folder: Path) -> dict[str, Any]:
    """The configuration of all phases."""
    from tests.bench.counting_store import KIND

    return {
        "collection": {"name": "scale"},
        "model": {"name": str(folder / "tiny"), "threads": 1},
        "sources": {"rows": {"kind": "jsonl", "path": "rows.jsonl", "tenant": "default"}},
        "chunking": {"max_tokens": 250},
        "stores": {"main": {"kind": KIND}},
        "ingest": {"min_free_bytes": 1 << 20},
    }


if __name__ == "__main__":
    sys.exit(main())
