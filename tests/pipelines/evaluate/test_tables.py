"""What people read: widths, bold figures, escapes, and the sentences below the tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from m3core.evaluate.measures import MEASURES
from m3core.evaluate.presets import Mined
from m3core.evaluate.resampling import Difference
from m3core.evaluate.search import Rankings
from m3core.fusion import Weights
from pipelines.encode.run import Counts
from pipelines.evaluate.comparing import compare_within
from pipelines.evaluate.dataset import read_dataset
from pipelines.evaluate.document import Findings
from pipelines.evaluate.evaluation import Evaluation, ScoredRun, Settings
from pipelines.evaluate.tables import markdown, sentences, tables
from pipelines.evaluate.terminal import render
from pipelines.evaluate.through import Live
from pipelines.query.render import Look
from tests.pipelines.evaluate.folders import write_folder

_RUNS = ("dense", "fused:balanced", "fused:long-documents", "bm25")


@pytest.fixture
def found(tmp_path: Path) -> Findings:
    """Figures that nobody measured: only how they are shown matters here."""
    dataset = read_dataset(
        write_folder(tmp_path / "hand|book", qrels=[("q1", "d1", 1), ("q3", "d3", 1), ("x", "d1", 1)])
    )
    nothing = Rankings(np.full((2, 0), -1, np.int64), np.zeros((2, 0), np.float32))
    values = {name: np.full((2, len(MEASURES)), 0.25 + 0.125 * place) for place, name in enumerate(_RUNS)}
    values["bm25"][0] = 0.0
    runs = {name: ScoredRun(nothing, dataset.document_ids, each) for name, each in values.items()}
    bounds = {name: np.asarray([[0.1, 0.9]] * len(MEASURES)) for name in _RUNS}
    evaluation = Evaluation(
        dataset, "tiny", "f", runs, bounds, Counts(2, 9), Counts(5, 900, truncated=2, limit=256), Settings()
    )
    return Findings(evaluation, compare_within(evaluation, "bm25"))


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_terminal_shows_every_figure_within_its_width(found: Findings, width: int) -> None:
    text = render(tables([found])[:2], [], Look(width))
    assert max(map(cell_len, text.splitlines())) <= width
    assert ("95 % of nDCG@10" in text) == (width >= 90)
    for figure in ("0.250", "0.375", "0.500"):
        assert figure in text
    assert "\x1b" not in text


def test_colour_marks_the_best_figures(found: Findings) -> None:
    text = render(tables([found])[:1], [], Look(100, colour=True))
    bold = [line for line in text.splitlines() if re.search(r"\x1b\[1m0\.500", line)]
    assert len(bold) == 1
    assert "fused:long-documents" in bold[0]


def test_markdown_is_a_table_with_escaped_cells(found: Findings) -> None:
    text = markdown([found], None)
    assert "## hand\\|book · tiny · 2 queries (2 languages) · 5 documents" in text
    assert "| fused:long-documents | **0.500** | **0.500** |" in text
    assert "| dense | bm25 | 2 | " in text
    assert "- 2 of 5 documents (40.0%) were cut at 256 tokens" in text
    assert "- 1 judgements of a query that is not in the queries, left out: x (qrels.tsv line 4)" in text


def test_languages_with_more_queries_come_first(found: Findings) -> None:
    table = tables([found])[1]
    assert table.header == ("language", "queries", "dense", "fused:balanced", "bm25")
    assert table.rows == (("de", "1", "0.250", "0.375", "0.625"), ("en", "1", "0.250", "0.375", "0.000"))


def _mined(low: float, p: float) -> Mined:
    return Mined(Weights(0.2, 0.1, 0.7), 0.9, 0.85, Difference(0.05, low, 0.09, p), ())


def test_mined_weights_are_advised_only_beyond_noise(found: Findings) -> None:
    better = sentences([found], _mined(0.01, 0.001))
    assert '  "presets": {"mined": {"dense": 0.2, "lexical": 0.1, "multi": 0.7}}' in better
    assert '  preset = "mined"' in better
    same = sentences([found], _mined(-0.01, 0.3))
    assert same[-1] == "no better than the preset beyond noise: keep the preset"


def test_what_a_collection_loses_is_said(found: Findings) -> None:
    loss = dict.fromkeys(MEASURES, Difference(-0.02, -0.03, -0.01, 0.002))
    live = Live(
        "handbook", 3, "fused:balanced", 0.95, loss, degraded=1, outside=0, refused=2, chunked=0, milliseconds=41.6
    )
    lines = sentences([Findings(found.evaluation, (), live)], None)
    assert (
        "handbook generation 3 against exact fused:balanced: overlap@10 0.950, nDCG@10 -0.020 (-0.030 to -0.010), "
        "p 0.0020; 42 ms per query" in lines
    )
    assert "1 answers were degraded: a store did not answer" in lines
    assert "2 queries were refused and count as not answered" in lines
    assert not any("corpus does not have" in line for line in lines)
