"""`m3 plan` against the run that follows it, on a small corpus with the tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3core.errors import RefusedError
from m3core.model import Backbone
from pipelines.cli.main import main
from pipelines.ingest.counting import ratio_estimate
from pipelines.ingest.planned import PlanReport
from pipelines.ingest.planning import plan
from pipelines.ingest.report import IngestReport
from pipelines.state.lease import acquire_lease
from tests.pipelines.ingest.projects import EDGE, Project, document
from tests.pipelines.operate.conftest import toml


def planned(project: Project, sample: int | None = None) -> PlanReport:
    return plan(project.config, project.base, sample=sample)


def lake_size(project: Project) -> int:
    return sum(path.stat().st_size for path in (project.paths.root / "lake").rglob("*") if path.is_file())


def files_of(project: Project) -> dict[str, tuple[int, int]]:
    found = (path for path in project.base.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def check_near(found: PlanReport, report: IngestReport) -> None:
    """Documents exactly; chunks and tokens within 15 %, as the issue demands (chunks exactly: they were made)."""
    listed = {name: found.documents.as_json()[name] for name in ("listed", "added", "changed", "deleted", "failed")}
    assert listed == {name: report.documents.as_json()[name] for name in listed}
    assert found.chunks.value == report.chunks_written
    assert found.tokens_new.value == pytest.approx(report.tokens_encoded, rel=0.15)
    assert found.tokens_cached.value == pytest.approx(report.tokens_reused, rel=0.15)


def test_a_first_run_is_foretold_and_nothing_is_written(project: Project) -> None:
    project.settings["stores"] = EDGE
    project.write_many(40)
    project.write("twin.md", document(3))  # its texts are those of d003.md: encoded once
    project.write("bad.txt", b"\xff\xfe")
    before = files_of(project)

    found = planned(project)

    assert files_of(project) == before
    assert not (project.base / "m3-data").exists()
    assert (found.generation, found.sampled, found.rate_from) == (None, None, "measured now")
    assert found.tokens_per_second > 0
    assert found.documents.failed == 1
    report = project.ingest()
    check_near(found, report)
    assert found.lake_bytes == pytest.approx(lake_size(project), rel=0.15)
    store = found.stores["main"]
    assert store.basis == "its format"
    assert store.bytes is not None
    assert store.bytes > 0


def test_a_second_run_is_foretold_with_what_the_lake_has(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.settings["fields"] = {"year": "integer"}
    rows = [{"doc_id": f"r{n}", "text": document(n), "acl": ["staff"], "year": n} for n in range(12)]
    project.write_lines(rows)
    project.ingest()
    size = lake_size(project)
    moved = {**rows[0], "acl": ["board"]}
    edited = {**rows[1], "text": document(1).replace("Paragraph 2", "Quite another paragraph 2")}
    project.write_lines([moved, edited, *rows[3:], {"doc_id": "new", "text": document(99), "acl": ["staff"]}])

    def forward(*_: object) -> None:
        raise AssertionError("the model was run")

    with monkeypatch.context() as patch, acquire_lease(project.paths):  # a run may be at work
        patch.setattr(Backbone, "__call__", forward)
        before = files_of(project)
        found = planned(project)
        held = {path: facts for path, facts in files_of(project).items() if "lease" not in path}
        assert held == {path: facts for path, facts in before.items() if "lease" not in path}

    assert (found.rate_from, found.generation) == ("last run", 1)
    classes = found.documents
    assert (classes.deleted, classes.patched, classes.changed, classes.added) == (1, 1, 1, 1)
    report = project.ingest()
    check_near(found, report)
    assert found.lake_bytes == pytest.approx(lake_size(project) - size, rel=0.25)  # one file: its frame weighs most


def test_nothing_to_do_costs_nothing(project: Project) -> None:
    project.write_many(3)
    project.ingest()
    found = planned(project)
    assert (found.chunks.value, found.tokens_new.value, found.lake_bytes) == (0, 0, 0)
    assert found.documents.unchanged == 3
    assert found.stores["main"].bytes is None


def test_a_sample_stands_for_all_and_says_how_well(project: Project) -> None:
    project.write_many(60)
    for number in range(0, 60, 3):
        project.write(f"d{number:03}.md", document(number, paragraphs=12))
    whole = planned(project)

    found = planned(project, sample=25)

    assert found.sampled == 25
    assert found.documents == whole.documents
    for estimate, exact in ((found.chunks, whole.chunks), (found.tokens_new, whole.tokens_new)):
        assert 0 < estimate.error < 0.2 * exact.value
        assert abs(estimate.value - exact.value) < 1.5 * estimate.error
        assert exact.error == 0
    assert found.lake_bytes == pytest.approx(whole.lake_bytes, rel=0.2)
    assert planned(project, sample=25).chunks == found.chunks
    assert planned(project, sample=60).sampled is None


def test_what_a_run_would_refuse_is_told(project: Project) -> None:
    project.write_many(10)
    project.ingest()
    for number in range(8):
        (project.docs / f"d{number:03}.md").unlink()
    (note,) = planned(project).notes
    assert note.startswith("the run would be refused: 8 of 10 documents are gone")
    project.settings["chunking"] = {"max_tokens": 64}
    with pytest.raises(RefusedError, match="was built otherwise"):
        planned(project)


def test_on_the_command_line(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.settings["stores"] = EDGE
    project.write_many(8)
    file = project.base / "m3.toml"
    file.write_text(toml(project.raw()), encoding="utf-8")
    assert main(["plan", "-c", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {
        "schema_version", "collection", "generation", "sample", "documents", "chunks", "tokens", "texts", "bytes",
        "seconds", "tokens_per_second", "rate_from", "notes",
    }  # fmt: skip
    assert found["documents"] == {
        "listed": 8, "added": 8, "changed": 0, "patched": 0, "deleted": 0, "unchanged": 0, "failed": 0, "pending": 0,
    }  # fmt: skip
    assert found["chunks"]["error"] == 0
    assert main(["plan", "-c", str(file), "--sample", "4"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "sample      estimated from 4 documents; ± is half of a 95 % interval"
    assert said[-1].startswith("About ")
    assert main(["plan", "-c", str(file), "--sample", "1"]) == 2
    assert "an error bar needs at least 2 documents" in capsys.readouterr().err


def test_a_missing_source_ends_with_7(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project.docs.rmdir()
    file = tmp_path / "m3.toml"
    file.write_text(toml(project.raw()), encoding="utf-8")
    assert main(["plan", "-c", str(file)]) == 7
    assert "m3: source: " in capsys.readouterr().err


@given(st.floats(0.1, 50), st.lists(st.floats(1, 1e4), min_size=2, max_size=30), st.integers(1, 100))
def test_proportional_values_are_estimated_without_error(ratio: float, sizes: list[float], more: int) -> None:
    total = sum(sizes) + 100.0 * more
    found = ratio_estimate([ratio * size for size in sizes], sizes, total, len(sizes) + more)
    assert found.value == pytest.approx(ratio * total)
    assert found.error == pytest.approx(0, abs=1e-4 * found.value)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    chance = random.Random(7)
    sizes = [chance.lognormvariate(7, 1) for _ in range(2000)]
    values = [0.004 * size + chance.expovariate(1) for size in sizes]
    hits = 0
    for _ in range(300):
        chosen = chance.sample(range(2000), 100)
        found = ratio_estimate([values[i] for i in chosen], [sizes[i] for i in chosen], sum(sizes), 2000)
        hits += abs(found.value - sum(values)) <= found.error
    assert 0.88 <= hits / 300 <= 0.99
    assert ratio_estimate(values, sizes, sum(sizes), 2000).error == 0
    assert ratio_estimate([1.0], [2.0], 10.0, 5).error == float("inf")
    assert ratio_estimate([], [], 0.0, 0).value == 0
