"""Files of the state folder from which documents are taken: manifest, letters, reports, repair plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.state.deadletters import folded_through
from pipelines.state.erase.records import ERASED_TEXT, erase_records, remove_traces
from pipelines.state.manifest import Manifest
from pipelines.state.paths import StatePaths
from pipelines.state.runs import DeadLetter, RunFolder, read_dead_letters
from tests.pipelines.ingest.parts import record_of
from tests.pipelines.operate.traces import traces


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.of(tmp_path, "notes")


def secret(tenant: str, doc_id: str) -> str | None:
    """The tombstone of documents whose id begins with `secret`."""
    return "stone" if tenant == "acme" and doc_id.startswith("secret") else None


def letter(doc_id: str, tenant: str = "acme", source: str = "rows.jsonl") -> DeadLetter:
    return DeadLetter("read", tenant, doc_id, source, "document", f"{doc_id}: it is empty")


def test_a_sweep_leaves_only_what_the_manifest_names(paths: StatePaths) -> None:
    manifest = Manifest(paths, 1)
    manifest.append(1, 1, [record_of("a.md"), record_of("secret.md")])
    folder = paths.manifest(1)
    stray = folder / "delta-000001-00001.json"
    kept = stray.read_bytes()
    manifest.compact()
    stray.write_bytes(kept)
    (folder / "data" / "delta-000009-00001.parquet").write_bytes(b"secret.md")
    manifest.append(2, 1, [], removed=[("default", "secret.md")])
    manifest.sweep()
    assert traces(folder, "secret.md") == []
    assert [record.doc_id for record in Manifest(paths, 1).records()] == ["a.md"]
    assert not stray.exists()
    manifest.sweep()
    manifest.append(3, 1, [record_of("b.md")])
    assert [record.doc_id for record in Manifest(paths, 1).records()] == ["a.md", "b.md"]


def test_letters_of_all_runs_and_of_the_view(paths: StatePaths) -> None:
    first = RunFolder.create(paths, 1, {})
    first.add_dead_letters([letter("secret-1"), letter("b")])
    first.close_dead_letters(complete=True)
    second = RunFolder.create(paths, 2, {})
    second.add_dead_letters([letter("secret-1"), letter("secret-1", tenant="globex"), letter("", tenant="")])
    assert erase_records(paths, secret)[0] == 4
    assert traces(paths.root, "secret-1: it") != []  # the other tenant's
    assert [(one.tenant, one.doc_id) for one in read_dead_letters(paths)] == [("acme", "b"), ("globex", "secret-1")]
    assert folded_through(paths) == 1
    second.close_dead_letters(complete=False)
    assert [(one.tenant, one.doc_id) for one in read_dead_letters(paths)] == [("acme", "b"), ("globex", "secret-1")]
    assert erase_records(paths, secret) == (0, 0)


def test_reports_lose_the_document_and_the_text_of_errors_and_keep_the_rest(paths: StatePaths) -> None:
    folder = RunFolder.create(paths, 1, {"collection": {"name": "notes"}})
    found = {"tenant": "acme", "doc_id": "secret-1", "message": "secret-1 is empty"}
    other = {**found, "doc_id": "b", "message": "b is empty"}
    report = {"run": 1, "dead_letters": [found, other], "error": {"code": "refused", "message": "first secret-1"}}
    folder.write_report(report)
    times = folder.read_times()
    assert erase_records(paths, secret) == (0, 1)
    assert folder.read_report() == {
        "run": 1,
        "dead_letters": [other],
        "error": {"code": "refused", "message": ERASED_TEXT},
    }
    assert folder.read_times() == times
    (folder.path / "report.json").write_text(json.dumps(report))  # damaged: nobody can read it
    assert erase_records(paths, secret) == (0, 1)
    assert not (folder.path / "report.json").exists()


def test_plans_of_repairs(paths: StatePaths) -> None:
    folder = RunFolder.create(paths, 3, {})
    lines: list[object] = [
        {"plan": "threefold.repair", "run": 2},
        {"store": "main", "kind": "missing", "id": "1", "tenant": "acme", "doc_id": "secret-1"},
        {"store": "main", "kind": "missing", "id": "2", "tenant": "acme", "doc_id": "b"},
        {"store": "main", "kind": "extra", "id": "3", "tenant": "", "doc_id": ""},
    ]
    plan, renewed = folder.path / "repair.jsonl", folder.path / "renewed.jsonl"
    plan.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"store": "main", "doc_id": "sec')
    renewed.write_text('["acme", "secret-1"]\n["acme", "b"]\n')
    assert erase_records(paths, secret) == (0, 2)
    assert [json.loads(line) for line in plan.read_text().splitlines()] == [lines[0], lines[2]]
    assert renewed.read_text() == '["acme", "b"]\n'


def test_leftovers_of_any_age(paths: StatePaths) -> None:
    folder = RunFolder.create(paths, 1, {})
    (folder.path / "work").mkdir()
    (folder.path / "work" / "listing.parquet").write_bytes(b"secret")
    (paths.runs / ".tmp-audit-x").mkdir()
    (paths.runs / ".tmp-audit-x" / "named.parquet").write_bytes(b"secret")
    assert remove_traces(paths) == 2
    assert traces(paths.root, "secret") == []
    assert (folder.path / "config.json").exists()


_LEAF = st.one_of(st.integers(), st.text(max_size=5), st.none())
_LETTER = st.fixed_dictionaries(
    {"tenant": st.sampled_from(["acme", "globex"]), "doc_id": st.sampled_from(["secret-1", "b", ""]), "x": _LEAF}
)
_REPORT = st.recursive(
    st.one_of(_LEAF, _LETTER, st.lists(_LETTER, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "error", "rows"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "dead_letters", "error"]), st.lists(_REPORT, max_size=3), max_size=3))
def test_nothing_in_a_report_names_an_erased_document(
    tmp_path_factory: pytest.TempPathFactory, report: dict[str, object]
) -> None:
    paths = StatePaths.of(tmp_path_factory.mktemp("t"), "notes")
    folder = RunFolder.create(paths, 1, {})
    folder.write_report(report)
    erase_records(paths, secret)
    after = folder.read_report()
    assert after is not None
    named = [one for one in _walk(after) if isinstance(one, dict) and "doc_id" in one]
    assert all(one["doc_id"] and secret(one["tenant"], one["doc_id"]) is None for one in named)
    erase_records(paths, secret)
    assert folder.read_report() == after


def _walk(value: object) -> list[object]:
    """Everything below `value`."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for part in parts for found in (part, *_walk(part))]
