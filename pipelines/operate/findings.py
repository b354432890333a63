"""What an audit finds, one row at a time, written to a file: a dropped store gives as many findings as it had rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from m3core.errors import UsageError

# missing: no row; extra: a row of no document; stale, ahead: of an older, a newer run than the manifest says.
STORE_KINDS = ("missing", "extra", "stale", "ahead", "wrong_acl", "wrong_vectors")
# The document's chunk row, or the vectors of its text, are lost: only reading the document again mends it.
LOST_KINDS = ("lost_row", "lost_vectors")
# A lake or chunk file that is not what was written; `id` is its path below the state folder.
FILE_KINDS = ("corrupt_file",)
KINDS = (*STORE_KINDS, *LOST_KINDS, *FILE_KINDS)
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One chunk (or file) that is not as it should be. `store` is empty for the state folder; `found` is the revision
    that the store has, `revision` the manifest's; of an extra row there is no document."""

    store: str
    kind: str
    id: str
    tenant: str = ""
    doc_id: str = ""
    revision: int = 0
    found: int = 0


@dataclass
class Findings:
    """A file of findings (JSON lines), their counts by store and kind, and the first few ids of each."""

    path: Path
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _file: IO[str] | None = None

    def __enter__(self) -> Findings:
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, finding: Finding) -> None:
        """Write it down; only while entered."""
        if self._file is None:
            raise ValueError("the file of findings is not open")
        self._file.write(json.dumps(asdict(finding)) + "\n")
        key = finding.store, finding.kind
        self.counts[key] += 1
        named = self.first.setdefault(key, [])
        if len(named) < _NAMED:
            named.append(finding.id)

    def of_store(self, store: str) -> dict[str, int]:
        """Counts by kind."""
        return {kind: self.counts[store, kind] for kind in STORE_KINDS}


def read_findings(path: Path, skip: int = 0) -> Iterator[Finding]:
    """The findings of a file after its first `skip` lines. UsageError if a line is none."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if number <= skip:
                continue
            try:
                finding = Finding(**json.loads(line))
            except (ValueError, TypeError):
                raise UsageError(f"{path}:{number} is no finding of an audit", "write the plan anew") from None
            if finding.kind not in KINDS:
                raise UsageError(f"{path}:{number} has the unknown kind {finding.kind[:40]!r}", "write the plan anew")
            yield finding
