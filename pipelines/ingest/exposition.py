"""What a run did, as a Prometheus text file: for node_exporter's textfile collector, or whoever reads such files.

Every run replaces the file whole, a failed one too, so that an alert may ask how long ago a run last succeeded:
`time() - m3_run_success_timestamp_seconds > 86400`. The time of the last success is taken over from the file that is
replaced. Names and units follow Prometheus' conventions; the labels are the collection and what a line counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from m3core.errors import ExitCode
from pipelines.ingest.report import IngestReport
from pipelines.state.files import TEMPORARY, reporting_write_errors

_SUCCEEDED = (ExitCode.OK, ExitCode.DEAD_LETTERS)
_SUCCESS = "m3_run_success_timestamp_seconds"


@dataclass(frozen=True)
class Family:
    """One metric: its lines are label pairs and values."""

    name: str
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]

    def lines(self, collection: str) -> Iterator[str]:
        """In the text format, version 0.0.4."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} gauge"
        for labels, value in self.samples:
            pairs = ",".join(
                f'{name}="{_escaped(text)}"' for name, text in {"collection": collection, **labels}.items()
            )
            yield f"{self.name}{{{pairs}}} {value:.15g}"


def exposition(report: IngestReport, *, now: float, exit_code: int, succeeded: float | None = None) -> str:
    """The file. `exit_code`: also of a run that failed; `succeeded`: when a run before this one last did."""
    stores = report.stores.items()
    families = [
        _one("m3_run_number", "Number of the run.", report.run),
        _one("m3_run_generation", "Generation that the run wrote.", report.generation),
        _one("m3_run_exit_code", "What the run ended with.", exit_code),
        _one("m3_run_end_timestamp_seconds", "When the run ended.", now),
        _one("m3_run_duration_seconds", "How long the run took.", report.seconds),
        _one("m3_run_encode_seconds", "How long the model was at work.", report.encode_seconds),
        _one("m3_run_peak_memory_bytes", f"Most memory that the run took ({report.peak_kind}).", report.peak_bytes),
        _one("m3_run_new_dead_letters", "What failed and had not failed before.", report.new_dead_letters),
        _many("m3_run_documents", "Documents by what became of them.", "state", report.documents.as_json()),
        _many("m3_run_chunks", "Chunks by what happened to them in the stores.", "change", _chunks(report)),
        _many("m3_run_tokens", "Tokens by where their vectors came from.", "from", _tokens(report)),
        _many("m3_store_pending_documents", "Documents that wait for a store.", "store",
              {name: store.pending for name, store in stores}),
        _many("m3_store_up", "Whether a store answered.", "store",
              {name: store.error is None for name, store in stores}),
    ]  # fmt: skip
    succeeded = now if exit_code in _SUCCEEDED else succeeded
    if succeeded is not None:
        families.append(_one(_SUCCESS, "When a run last ended well.", succeeded))
    return "".join(line + "\n" for family in families for line in family.lines(report.collection))


def write_exposition(path: Path, report: IngestReport, *, now: float, exit_code: int) -> None:
    """Replace the file, readable by everybody, as a collector of another user needs it. DiskFullError, StateError."""
    text = exposition(report, now=now, exit_code=exit_code, succeeded=last_success(path))
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    with reporting_write_errors(path):
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)


def last_success(path: Path) -> float | None:
    """When a run last ended well, as the file says; None if there is none, or it says nothing of it."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = re.search(rf"^{_SUCCESS}\{{[^\n]*\}} ([0-9.e+]+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def _one(name: str, text: str, value: float) -> Family:
    return Family(name, text, (({}, value),))


def _many(name: str, text: str, label: str, values: Mapping[str, float]) -> Family:
    return Family(name, text, tuple(({label: each}, float(value)) for each, value in values.items()))


def _chunks(report: IngestReport) -> dict[str, float]:
    return {"written": report.chunks_written, "deleted": report.chunks_deleted}


def _tokens(report: IngestReport) -> dict[str, float]:
    return {"model": report.tokens_encoded, "lake": report.tokens_reused}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
