"""`m3 init`, `m3 ingest` and `m3 search` as one user's path, on a real (tiny) model and the embedded store."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from m3core.config.toml import toml_string
from pipelines.cli.main import main
from pipelines.state.lease import acquire_lease
from pipelines.state.paths import StatePaths
from tests.pipelines.cli.conftest import M3

TEXTS = {
    "cryostat.md": "# Cryostat booking\n\nThe cryostat of the laboratory is booked at the front desk.\n",
    "travel.md": "# Night trains\n\nTravel by night train is refunded within thirty days.\n",
    "keys.txt": "Wer den Schlüssel verliert, meldet es sofort der Leitung.",
}


def corpus(folder: Path) -> None:
    docs = folder / "docs"
    docs.mkdir()
    for name, text in TEXTS.items():
        (docs / name).write_text(text, encoding="utf-8")


def use_tiny(folder: Path, tiny_model: Path) -> None:
    """Let the configuration that init wrote name the tiny model."""
    file = folder / "m3.toml"
    text = file.read_text(encoding="utf-8")
    assert 'name = "m3-small"' in text
    file.write_text(text.replace('"m3-small"', toml_string(str(tiny_model))), encoding="utf-8")


@pytest.fixture
def ready(here: Path, m3: M3, tiny_model: Path) -> Path:
    """A folder with documents and the configuration that `m3 init` wrote."""
    corpus(here)
    assert m3("init", "./docs").code == 0
    use_tiny(here, tiny_model)
    return here


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A configuration that was ingested, for tests that only read."""
    folder = tmp_path_factory.mktemp("built")
    corpus(folder)
    file = folder / "m3.toml"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert main(["init", str(folder / "docs"), "-c", str(file)]) == 0
        use_tiny(folder, tiny_model)
        assert main(["ingest", "-c", str(file)]) == 0
    return file


@pytest.fixture
def ingested(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as what `m3` takes without `-c`."""
    monkeypatch.setenv("M3_CONFIG", str(built))
    return built


def test_from_documents_to_an_answer(ready: Path, m3: M3) -> None:
    first = m3("ingest")
    assert first.code == 0
    lines = first.out.splitlines()
    assert lines[0].startswith("+ 3   ~ 0   - 0   = 0")
    assert any(re.fullmatch(r"3 chunks, \d+ tokens encoded at [\d,]+ tokens/s", line) for line in lines)
    assert any(re.fullmatch(r"peak memory [\d,]+ MiB \w+", line) for line in lines)
    assert lines[-1] == 'Search:  m3 search "your question"'
    assert first.err.startswith("docs · generation 1 · ")
    second = m3("ingest")
    assert second.code == 0
    assert second.out.startswith("+ 0   ~ 0   - 0   = 3")
    found = m3("search", "travel by night train is refunded", "--limit", "2")
    assert (found.code, found.err) == (0, "")
    assert "Night trains" in found.out
    assert "travel.md#0" in found.out
    assert "\x1b" not in found.out
    assert max(len(line) for line in found.out.splitlines()) <= 100


def test_json_has_the_agreed_shape(ready: Path, m3: M3) -> None:
    report = json.loads(m3("ingest", "--json").out)
    assert report["schema_version"] == 1
    counts = ("listed", "added", "changed", "patched", "deleted", "unchanged", "failed", "pending")
    assert [report[name] for name in counts] == [3, 3, 0, 0, 0, 0, 0, 0]
    assert (report["encoded_texts"], report["reused_texts"]) == (report["chunks"]["written"], 0)
    answer = json.loads(m3("search", "cryostat", "--json", "--explain").out)
    assert answer["schema_version"] == 1
    assert set(answer) >= {"hits", "coverage", "degraded", "generation"}
    assert (answer["degraded"], answer["generation"]) == (False, 1)
    assert answer["coverage"] == {"dense": "ok", "lexical": "ok", "multi": "ok"}
    assert len(answer["hits"]) == len(TEXTS)
    for hit in answer["hits"]:
        assert set(hit) >= {"id", "doc_id", "title", "text", "score", "signals"}
        assert set(hit["signals"]) == {"dense", "lexical", "multi"}
        for score in hit["signals"].values():
            assert set(score) == {"raw", "rank", "weight", "contribution", "origin"}
            assert score["origin"] in ("retrieved", "completed", "missing")
        contributions = sum(score["contribution"] for score in hit["signals"].values())
        assert hit["score"] == pytest.approx(contributions)


@pytest.mark.usefixtures("ingested")
def test_signals_weights_and_presets(m3: M3) -> None:
    def weights(*options: str) -> object:
        return json.loads(m3("search", "cryostat", "--json", *options).out)["weights"]

    assert weights("--signals", "multi,dense") == {"dense": 0.5, "multi": 0.5}
    assert weights("--weights", "2,1,1") == {"dense": 0.5, "lexical": 0.25, "multi": 0.25}
    assert weights("--preset", "long-documents") == {"dense": 0.15, "lexical": 0.5, "multi": 0.35}


@pytest.mark.usefixtures("ingested")
@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["x", "--preset", "balancd"], "m3: usage: "),
        (["x", "--preset", "balanced", "--weights", "1,1,1"], "m3: usage: --preset and --weights are both given"),
        (["x", "--weights", "1,1"], "m3: usage: --weights '1,1': not three numbers. Remedy: give weights of dense"),
        (["x", "--weights", "0,0,0"], "m3: usage: weights 0.0,0.0,0.0: each must be 0 or more and one above 0"),
        (["x", "--signals", "dens"], "m3: usage: --signals 'dens': no such signal; did you mean \"dense\"?"),
        (["x", "--as", "acme"], "m3: usage: --as 'acme': it must be TENANT:PRINCIPALS"),
        (["x", "--limit", "0"], "m3: usage: limit 0: it must lie within 1..1000"),
        (["x", "--filter", "yaer >= 2024"], "m3: filter: "),
        ([" "], "m3: usage: the query is empty"),
    ],
)
def test_what_search_refuses(m3: M3, arguments: list[str], start: str) -> None:
    ended = m3("search", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(start)
    assert ended.err.count("\n") == 1


@pytest.mark.usefixtures("ingested")
def test_nobody_sees_what_is_not_theirs(m3: M3) -> None:
    ended = m3("search", "cryostat", "--as", "default:strangers")
    assert ended.code == 0
    assert ended.out.startswith("No hits: no row is visible to default:strangers.")
    assert "Cryostat" not in ended.out


@pytest.mark.usefixtures("ready")
def test_searching_before_ingesting_names_ingest(m3: M3) -> None:
    ended = m3("search", "cryostat")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("m3: usage: collection 'docs' has nothing to search yet")
    assert ended.err.endswith("Remedy: m3 ingest\n")


def test_a_model_that_was_not_pulled_names_the_command(here: Path, m3: M3) -> None:
    corpus(here)
    m3("init", "docs")
    ended = m3("ingest")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("m3: model: model m3-small is not in ")
    assert ended.err.endswith("Remedy: m3 models pull m3-small\n")


def test_bad_documents_end_with_3_and_are_listed_without_their_text(ready: Path, m3: M3) -> None:
    (ready / "docs" / "bad.txt").write_bytes(b"top secret \xff\xfe words")
    (ready / "docs" / "empty.md").write_bytes(b"")
    ended = m3("ingest")
    assert ended.code == 3
    assert "+ 3   ~ 0   - 0   = 0   failed 2" in ended.out
    assert "bad.txt" in ended.out
    assert "empty.md" in ended.out
    assert "secret" not in ended.out + ended.err


def test_a_source_that_is_not_there_ends_with_7(ready: Path, m3: M3) -> None:
    (ready / "docs").rename(ready / "moved")
    ended = m3("ingest")
    assert (ended.code, ended.out) == (7, "")
    assert ended.err.splitlines()[-1].startswith("m3: source: ")


def test_too_many_deletes_end_with_5_unless_told(ready: Path, m3: M3) -> None:
    assert m3("ingest").code == 0
    (ready / "docs" / "keys.txt").unlink()
    refused = m3("ingest")
    assert refused.code == 5
    assert refused.err.splitlines()[-1].startswith("m3: refused: ")
    assert "--max-delete-fraction" in refused.err
    assert json.loads(m3("search", "Schlüssel", "--json").out)["hits"]
    told = m3("ingest", "--max-delete-fraction", "0.5")
    assert told.code == 0
    assert told.out.startswith("+ 0   ~ 0   - 1   = 2")


@pytest.mark.slow
def test_another_writer_fails_with_6_or_is_skipped_or_awaited(ready: Path, m3: M3) -> None:
    with acquire_lease(StatePaths.of(ready / "m3-data", "docs")):
        failed = m3("ingest")
        assert (failed.code, failed.out) == (6, "")
        assert failed.err.startswith("m3: locked: collection docs is being written by pid ")
        skipped = m3("ingest", "--if-locked", "skip")
        assert (skipped.code, skipped.err) == (0, "")
        assert skipped.out.startswith("skipped: collection docs is being written by pid ")
        assert json.loads(m3("ingest", "--if-locked", "skip", "--json").out)["skipped"]
        waiting = start("ingest", "--if-locked", "wait")
        time.sleep(1)
        assert waiting.poll() is None
    out, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 0
    assert out.startswith("+ 3")


@pytest.mark.slow
@pytest.mark.usefixtures("ingested")
def test_a_search_in_a_fresh_process() -> None:
    search = start("search", "cryostat", "--json")
    out, err = search.communicate(timeout=120)
    assert (search.returncode, err) == (0, "")
    assert json.loads(out)["hits"][0]["doc_id"]


def start(*arguments: str) -> subprocess.Popen[str]:
    code = f"import sys; from pipelines.cli.main import main; sys.exit(main({list(arguments)!r}))"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, env=dict(os.environ))


@pytest.mark.slow
def test_sigterm_ends_a_run_that_waits(ready: Path) -> None:
    with acquire_lease(StatePaths.of(ready / "m3-data", "docs")):
        waiting = start("ingest", "--if-locked", "wait")
        time.sleep(3)
        waiting.send_signal(signal.SIGTERM)
        waiting.communicate(timeout=30)
    assert waiting.returncode in (143, -signal.SIGTERM)
