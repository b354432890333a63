"""What `m3 search` takes beyond the question, on a real (tiny) model and the embedded store."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from m3core.config.toml import toml_string
from pipelines.cli.main import main
from tests.pipelines.cli.conftest import M3

TEXTS = {
    "long.md": "# Night trains\n\n" + "\n\n".join(f"## Part {n}\n\nThe night train number {n}." for n in range(6)),
    "short.md": "# Trains\n\nThe train at night is another one.\n",
    "copy.md": "# Trains\n\nThe train at night is another one.\n",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A configuration that was ingested."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "docs").mkdir()
    for name, text in TEXTS.items():
        (folder / "docs" / name).write_text(text, encoding="utf-8")
    file = folder / "m3.toml"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert main(["init", str(folder / "docs"), "-c", str(file)]) == 0
        text = file.read_text(encoding="utf-8").replace('"m3-small"', toml_string(str(tiny_model)))
        file.write_text(text + "\n[chunking]\nmax_tokens = 32\n", encoding="utf-8")
        assert main(["ingest", "-c", str(file)]) == 0
    return file


def asked(m3: M3, built: Path, *arguments: str) -> dict[str, Any]:
    ended = m3("search", "-c", built, "--json", *arguments)
    assert ended.code == 0, ended.err
    answer: dict[str, Any] = json.loads(ended.out)
    return answer


def test_chunks_of_a_document_and_documents_with_one_text(m3: M3, built: Path) -> None:
    hits = {hit["doc_id"]: hit for hit in asked(m3, built, "night train", "--chunks", "3")["hits"]}
    assert len(hits["long.md"]["chunks"]) == 2
    assert len(hits) == 2
    [other] = set(hits) - {"long.md"}
    assert [other, *hits[other]["same_text"]] in (["short.md", "copy.md"], ["copy.md", "short.md"])
    shown = m3("search", "-c", built, "night train", "--chunks", "3").out
    assert "same text in " in shown


def test_phrases_in_quotes(m3: M3, built: Path) -> None:
    answer = asked(m3, built, '"train at night"', "--explain")
    assert {hit["doc_id"] for hit in answer["hits"]} <= {"short.md", "copy.md"}
    assert answer["plan"]["phrases"] == ["train at night"]
    assert m3("search", "-c", built, '"no such words"').out.startswith("No hits: none of the best ")


def test_required_signals_fusion_and_least_score(m3: M3, built: Path) -> None:
    plan = asked(m3, built, "train", "--explain", "--require", "multi,dense", "--fusion", "reciprocal-rank")["plan"]
    assert (plan["require"], plan["fusion"]) == (["dense", "multi"], "reciprocal-rank")
    assert "reaches the score 900" in m3("search", "-c", built, "train", "--min-score", "900").out
    refused = m3("search", "-c", built, "train", "--signals", "dense", "--require", "lexical")
    assert refused.code == 2
    assert "require lexical: it is no part of this search" in refused.err
    unknown = m3("search", "-c", built, "train", "--fusion", "reciprocal")
    assert (unknown.code, 'did you mean "reciprocal-rank"?' in unknown.err) == (2, True)
