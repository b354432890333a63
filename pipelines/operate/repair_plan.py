"""The plan of a repair: a file that says what differs, for people to read and for `m3 repair` to carry out.

JSON lines. The first says what it is for: `{"plan": "threefold.repair", "format": 1, "collection", "generation",
"run"}`, `run` being the run counter when the audit was made; the others are findings (`findings.py`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m3core.errors import RefusedError, UsageError
from pipelines.operate.collection import Collection
from pipelines.operate.findings import Finding, read_findings

_KIND = "threefold.repair"
_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """A written plan and how many findings it has by store and kind."""

    path: Path
    counts: Counter[tuple[str, str]]

    def findings(self) -> Iterator[Finding]:
        """In the order of the file."""
        return read_findings(self.path, skip=1)

    def of(self, store: str, kind: str) -> Iterator[Finding]:
        """Those of one store and kind; the file is read from its begin for each, and never held."""
        return (finding for finding in self.findings() if (finding.store, finding.kind) == (store, kind))

    @property
    def stores(self) -> set[str]:
        """Names of the stores that are to be changed."""
        return {store for store, _ in self.counts if store}

    @property
    def latest(self) -> int:
        """The latest run that left a row in a store which differs; 0 if none did."""
        return max((finding.found for finding in self.findings()), default=0)

    def count(self, *kinds: str) -> int:
        """Findings of these kinds, in all stores."""
        return sum(count for (_, kind), count in self.counts.items() if kind in kinds)


def write_plan(path: Path, collection: Collection, findings: Path) -> Plan:
    """A new file, readable by its owner only, of the findings of an audit. UsageError if the file exists."""
    header = {
        "plan": _KIND,
        "format": _FORMAT,
        "collection": collection.place.name,
        "generation": collection.generation.number,
        "run": collection.state.run,
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists; a plan is written into a new file", "name another file") from None
    with os.fdopen(descriptor, "wb") as file, findings.open("rb") as lines:
        file.write(json.dumps(header).encode() + b"\n")
        shutil.copyfileobj(lines, file)
    return _counted(path)


def read_plan(path: Path, collection: Collection) -> Plan:
    """A plan that was written before.

    UsageError if it is none, or of another collection; RefusedError if a run has changed the collection since.
    """
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
        known = (header["plan"], header["format"]) == (_KIND, _FORMAT)
        named = header["collection"], header["generation"]
        run = int(header["run"])
    except FileNotFoundError:
        raise UsageError(f"{path} is not there", f"m3 repair --dry-run --plan {path}") from None
    except (ValueError, KeyError, TypeError):
        known, named, run = False, ("", 0), 0
    if not known:
        raise UsageError(f"{path} is no plan of this version", "m3 repair --dry-run --plan FILE")
    if named != (collection.place.name, collection.generation.number):
        raise UsageError(
            f"{path} is for collection {named[0]!a}, generation {named[1]}", "name the right configuration"
        )
    if run != collection.state.run:
        raise RefusedError(
            f"{path} was made after run {run}, and run {collection.state.run} has changed the collection since",
            "make a new plan: m3 repair --dry-run --plan FILE",
        )
    return _counted(path)


def _counted(path: Path) -> Plan:
    return Plan(path, Counter((finding.store, finding.kind) for finding in read_findings(path, skip=1)))
