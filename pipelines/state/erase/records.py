"""What runs wrote down of erased documents: dead letters, reports, plans of repairs, and what killed processes left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.state.deadletters import erase_letters
from pipelines.state.erase.victims import Match
from pipelines.state.files import DamagedError, remove_files, remove_leftovers, write_atomic
from pipelines.state.paths import StatePaths
from pipelines.state.runs import RunFolder, list_runs

# An error's text names documents of any tenant, without saying so.
ERASED_TEXT = "(text removed by a purge)"
_WORK = "work"


def remove_traces(paths: StatePaths) -> int:
    """Remove temporary files and folders of any age, and the work folders of runs: listings, joins, spilled rows.

    Only under the lease; an audit that is at work meanwhile fails and can be asked again. How many there were.
    """
    removed = remove_leftovers(paths.root, older_than=0.0)
    for number in list_runs(paths):
        folder = paths.run(number) / _WORK
        if folder.exists():
            shutil.rmtree(folder)
            removed += 1
    return removed


def erase_records(paths: StatePaths, match: Match) -> tuple[int, int]:
    """Take the documents out of dead letters, reports and repair plans; how many letters went, and how many files of
    runs changed.

    Letters that name no document go too, since they may be of an erased one; a file that still cannot be read is listed
    again by the next run. The text of errors in reports goes, their code stays.
    """
    letters = erase_letters(paths, lambda tenant, doc_id: not doc_id or match(tenant, doc_id) is not None)
    changed = 0
    for number in list_runs(paths):
        folder = RunFolder(paths, number)
        try:
            changed += folder.edit_report(lambda report: _edited(report, match))
        except DamagedError:  # nobody can read it, but it may name them
            remove_files([folder.path / "report.json"])
            changed += 1
        for path in sorted(folder.path.glob("*.jsonl")):
            lines = path.read_bytes().splitlines(keepends=True)
            kept = list(_kept_lines(lines, match))
            if kept != lines:
                write_atomic(path, b"".join(kept))
                changed += 1
    return letters, changed


def _edited(value: Any, match: Match) -> Any:
    """A report without what is about an erased document, and without the text of errors."""
    if isinstance(value, Mapping):
        return {key: _edited_part(key, part, match) for key, part in value.items()}
    if isinstance(value, list):
        return [_edited(part, match) for part in value if not _is_about(part, match)]
    return value


def _edited_part(key: str, part: Any, match: Match) -> Any:
    if _is_about(part, match):
        return None
    edited = _edited(part, match)
    if key == "error" and isinstance(edited, Mapping) and "message" in edited:
        return {**edited, "message": ERASED_TEXT}
    return edited


def _is_about(value: Any, match: Match) -> bool:
    """Whether this is a dead letter or a finding of an erased document, or of no document that it names."""
    if not isinstance(value, Mapping) or "doc_id" not in value:
        return False
    return not value["doc_id"] or match(str(value.get("tenant", "")), str(value["doc_id"])) is not None


def _kept_lines(lines: Iterable[bytes], match: Match) -> Iterable[bytes]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue  # cut by a kill
        if isinstance(value, list) and len(value) == 2:  # (tenant, doc_id) of a renewed document
            value = {"tenant": value[0], "doc_id": value[1]}
        if not _is_about(value, match):
            yield line
