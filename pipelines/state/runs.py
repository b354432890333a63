"""The folder of one run, `runs/<run>/`: with what configuration it ran, what came of it, and its dead letters.

`config.json` (kind `threefold.run-config`, format 1, written when the run begins) has `config`, the configuration
without secrets, and `started`, a stamp. `report.json` (kind `threefold.run-report`, format 1, replaced as often as
wanted) has `report` and `written`, a stamp. Both are checksummed JSON (`files.py`). Dead letters: `deadletters.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3core.errors import StateError
from pipelines.state.clock import utc_now
from pipelines.state.deadletters import DeadLetter, fold_letters, read_dead_letters, write_letters
from pipelines.state.files import make_folder, read_json, write_atomic, write_json
from pipelines.state.paths import StatePaths

__all__ = ["DeadLetter", "RunFolder", "list_runs", "read_dead_letters"]

FORMAT = 1
_CONFIG = "threefold.run-config"
_REPORT = "threefold.run-report"


@dataclass(frozen=True)
class RunFolder:
    """`runs/<run:06d>/` of one collection."""

    paths: StatePaths
    number: int

    @classmethod
    def create(cls, paths: StatePaths, run: int, config: Mapping[str, Any]) -> RunFolder:
        """Make the folder and write config.json (no secrets); StateError if the run exists."""
        folder = cls(paths, run)
        if folder.path.exists():
            raise StateError(
                f"{folder.path} exists: run {run} was begun before",
                "collection.json is older than the runs; restore the whole state folder from one backup",
            )
        make_folder(folder.path)
        write_json(folder.path / "config.json", _CONFIG, FORMAT, {"config": dict(config), "started": utc_now()})
        return folder

    @property
    def path(self) -> Path:
        """The folder."""
        return self.paths.run(self.number)

    def read_config(self) -> dict[str, Any]:
        """The configuration of the run."""
        return dict(read_json(self.path / "config.json", _CONFIG, FORMAT)["config"])

    def write_report(self, report: Mapping[str, Any]) -> None:
        """report.json, replaced atomically."""
        write_json(self.path / "report.json", _REPORT, FORMAT, {"report": dict(report), "written": utc_now()})

    def write_metrics(self, text: str) -> None:
        """metrics.prom: what report.json counts, as Prometheus reads it."""
        write_atomic(self.path / "metrics.prom", text.encode())

    def write_receipt(self, receipt: Mapping[str, Any]) -> None:
        """receipt.json (kind `threefold.receipt`, format 1): what a purge erased, by tombstones."""
        write_json(self.path / "receipt.json", "threefold.receipt", FORMAT, {"receipt": dict(receipt)})

    def edit_report(self, edit: Callable[[dict[str, Any]], Mapping[str, Any]]) -> bool:
        """Replace what report.json says; its stamp stays. Whether anything changed; False without a report."""
        path = self.path / "report.json"
        try:
            body = read_json(path, _REPORT, FORMAT)
        except FileNotFoundError:
            return False
        report = dict(edit(dict(body["report"])))
        if report == body["report"]:
            return False
        write_json(path, _REPORT, FORMAT, {**body, "report": report})
        return True

    def read_report(self) -> dict[str, Any] | None:
        """None if the run has not written one."""
        try:
            return dict(read_json(self.path / "report.json", _REPORT, FORMAT)["report"])
        except FileNotFoundError:
            return None

    def read_times(self) -> tuple[str, str | None]:
        """Stamps of the run's begin and of its last report; None if it has not written one."""
        started = str(read_json(self.path / "config.json", _CONFIG, FORMAT)["started"])
        try:
            return started, str(read_json(self.path / "report.json", _REPORT, FORMAT)["written"])
        except FileNotFoundError:
            return started, None

    def add_dead_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Durable at once; call it per wave, before the wave's manifest commit."""
        write_letters(self.path, self.number, letters)

    def close_dead_letters(
        self,
        *,
        complete: bool,
        resolved: Collection[tuple[str, str]] = (),
        standing: Callable[[], Collection[tuple[str, str]]] = tuple,
    ) -> None:
        """Fold this run into the current view. `resolved`: documents (tenant, doc_id) that succeeded. `complete`: the
        run saw the whole listing, so that every letter it did not repeat is resolved (succeeded or gone), except those
        of `standing` documents, which are asked for if there are any letters."""
        fold_letters(self.paths, self.number, complete=complete, resolved=resolved, standing=standing)


def list_runs(paths: StatePaths) -> list[int]:
    """Numbers of all run folders, ascending."""
    if not paths.runs.exists():
        return []
    return sorted(int(path.name) for path in paths.runs.iterdir() if path.name.isdigit())
