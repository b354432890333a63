"""What the terminal shows: goldens at two widths, nothing that a document could smuggle in."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from m3core.types import Signal
from pipelines.query.answer import (
    Alignment,
    Answer,
    Coverage,
    Emptiness,
    Explanation,
    Hit,
    HitChunk,
    MatchedToken,
    Origin,
    SignalScore,
)
from pipelines.query.render import Look, render, render_heads

SIGNALS = {
    Signal.DENSE: SignalScore(0.861, 1, 0.4, 0.3444, Origin.RETRIEVED),
    Signal.LEXICAL: SignalScore(0.112, 9, 0.2, 0.0224, Origin.RETRIEVED),
    Signal.MULTI: SignalScore(0.939, 1, 0.4, 0.3756, Origin.COMPLETED),
}
WEAKER = {
    Signal.DENSE: SignalScore(0.7, 2, 0.4, 0.28, Origin.RETRIEVED),
    Signal.LEXICAL: SignalScore(0.0, 12, 0.2, 0.0, Origin.COMPLETED),
    Signal.MULTI: SignalScore(None, None, 0.4, 0.0, Origin.MISSING),
}
WHY = Explanation(
    (MatchedToken("train", 0.07), MatchedToken("night", 0.042)),
    (Alignment("night", "Nacht", 0.97), Alignment("train", "zug", 0.95), Alignment("travel", "Reise", 0.91)),
)
FIRST = Hit(
    "c1",
    "handbook/travel-7",
    3,
    "Reisekosten: Nachtzug",
    "",
    "Ein Nachtzug (night train) wird bis 200 Euro bezahlt.",
    "de",
    0.7424,
    SIGNALS,
    (0, 54),
    {"year": 2024},
    2,
    WHY,
)
SECOND = Hit(
    "c2",
    "lab/cryo",
    0,
    "低温実験室の鍵の受け渡し",
    "",
    "低温実験室の鍵は受付で受け取ります。" * 8,
    "ja",
    0.28,
    WEAKER,
    (0, 144),
    {},
)
ANSWER = Answer(
    query="travel by night train",
    hits=(FIRST, SECOND),
    coverage=dict.fromkeys(Signal, Coverage.OK),
    why={},
    generation=3,
    weights={Signal.DENSE: 0.4, Signal.LEXICAL: 0.2, Signal.MULTI: 0.4},
    timings_ms={"encode": 9.2, "candidates": 14.4, "completion": 6.0, "texts": 2.1, "total": 33.0},
    candidates=168,
    plan={
        "generation": 3,
        "fusion": "weighted-sum",
        "preset": "balanced",
        "signals": [
            {"signal": "dense", "store": "qdrant", "weight": 0.4, "candidates": 100},
            {"signal": "lexical", "store": "elasticsearch", "weight": 0.2, "candidates": 100},
            {"signal": "multi", "store": "milvus", "weight": 0.4, "candidates": 0},
        ],
        "require": [],
        "text_store": "qdrant",
        "filter": 'tenant = "acme" and acl in ("staff")',
        "phrases": [],
        "phrases_checked_in": "candidates",
        "min_score": None,
        "limit": 10,
        "offset": 0,
        "chunks": 1,
        "once": True,
        "paged": False,
        "max_candidates": 800,
        "rerank_cap": 400,
        "deadline_s": {"query": 3.5, "candidates": 6.0, "scores": 8.5, "texts": 10.0},
    },
)

WIDE = """\
 1  Reisekosten: Nachtzug                   de     0.742  dense █████▌  lexical ▍       multi ██████
    handbook/travel-7#3 · 2 more chunks
    Ein Nachtzug (night train) wird bis 200 Euro bezahlt.
 2  低温実験室の鍵の受け渡し                ja     0.280  dense ████▌   lexical ·       multi ·
    lab/cryo#0
    低温実験室の鍵は受付で受け取ります。低温実験室の鍵は受付で受け取ります。低温実験室の鍵は受付で受
    け取ります。低温実験室の鍵は受付で受け取ります。低温実験室の鍵は受付で受け取ります。低温実験室 …
2 hits · generation 3 · 33 ms
"""
NARROW = """\
 1  Reisekosten: Nachtzug                       de     0.742
    dense █████▌  lexical ▍       multi ██████
    handbook/travel-7#3 · 2 more chunks
    Ein Nachtzug (night train) wird bis 200 Euro bezahlt.
 2  低温実験室の鍵の受け渡し                    ja     0.280
    dense ████▌   lexical ·       multi ·
    lab/cryo#0
    低温実験室の鍵は受付で受け取ります。低温実験室の鍵は受付
    で受け取ります。低温実験室の鍵は受付で受け取ります。低 …
2 hits · generation 3 · 33 ms
"""
EXPLAINED = """\
 1  Reisekosten: Nachtzug                   de     0.742  dense █████▌  lexical ▍       multi ██████
    handbook/travel-7#3 · 2 more chunks
    Ein Nachtzug (night train) wird bis 200 Euro bezahlt.
    dense     0.861 × 0.40 =  0.344  rank 1    retrieved
    lexical   0.112 × 0.20 =  0.022  rank 9    retrieved  train 0.070 · night 0.042
    multi     0.939 × 0.40 =  0.376  rank 1    completed  night→Nacht 0.97 · train→zug 0.95
 2  低温実験室の鍵の受け渡し                ja     0.280  dense ████▌   lexical ·       multi ·
    lab/cryo#0
    低温実験室の鍵は受付で受け取ります。低温実験室の鍵は受付で受け取ります。低温実験室の鍵は受付で受
    け取ります。低温実験室の鍵は受付で受け取ります。低温実験室の鍵は受付で受け取ります。低温実験室 …
    dense     0.700 × 0.40 =  0.280  rank 2    retrieved
    lexical   0.000 × 0.20 =  0.000  rank 12   completed
    multi         – × 0.40 =  0.000  –         missing
plan  dense 100 from qdrant · lexical 100 from elasticsearch · multi on 168 from milvus ·
      preset balanced · texts from qdrant · filter tenant = "acme" and acl in ("staff")
time  encode 9 ms · candidates 14 ms · completion 6 ms · texts 2 ms · total 33 ms · coverage full ·
      generation 3
"""


@pytest.mark.parametrize(
    ("look", "golden"),
    [
        (Look(100), WIDE),
        (Look(60), NARROW),
        (Look(100, explain=True), EXPLAINED),
    ],
    ids=["wide", "narrow", "explained"],
)
def test_golden(look: Look, golden: str) -> None:
    assert render(ANSWER, look) == golden


@pytest.mark.parametrize("width", [20, 60, 75, 89, 90, 100, 300])
@pytest.mark.parametrize("explain", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, explain: bool) -> None:
    for line in render(ANSWER, Look(width, explain=explain)).splitlines():
        assert cell_len(line) <= min(100, max(60, width))


def test_colour_only_where_it_is_wanted_and_only_as_decoration() -> None:
    coloured = render(ANSWER, Look(100, colour=True, explain=True))
    assert "\x1b[" in coloured
    stripped = "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).split("\n"))
    assert stripped == render(ANSWER, Look(100, explain=True))
    assert "\x1b" not in render(ANSWER, Look(100, explain=True))


EVIL = "a\x1b[31mred\x07\u202eesrever\u2066x\x9b2J\x00\r\nend\ud800\u2028z"


@pytest.mark.parametrize("colour", [False, True])
def test_control_and_bidi_characters_of_documents_are_stripped(colour: bool) -> None:
    why = Explanation((MatchedToken(EVIL, 0.1),), (Alignment(EVIL, EVIL, 0.5),))
    hit = replace(FIRST, title=EVIL, text=EVIL * 20, doc_id=EVIL, language=EVIL, explanation=why)
    bad = replace(ANSWER, hits=(hit,), query=EVIL)
    shown = render(bad, Look(100, colour=colour, explain=True))
    without_styles = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", without_styles
    )
    assert "red" in without_styles


@given(st.text(max_size=80), st.text(max_size=300), st.integers(60, 100))
def test_any_document_fits(title: str, text: str, width: int) -> None:
    hit = replace(FIRST, title=title, text=text, doc_id=title, language=title)
    for line in render(replace(ANSWER, hits=(hit,)), Look(width, explain=True)).rstrip("\n").split("\n"):
        assert cell_len(line) <= width


def test_degraded_says_what_is_missing_and_what_the_ranking_rests_on() -> None:
    degraded = replace(
        ANSWER,
        coverage={**ANSWER.coverage, Signal.LEXICAL: Coverage.TIMEOUT},
        why={Signal.LEXICAL: "elasticsearch: no answer within 5 s"},
        weights={Signal.DENSE: 0.5, Signal.MULTI: 0.5},
    )
    shown = " ".join(render(degraded, Look(60)).split())
    assert shown.startswith(
        "Degraded: lexical is missing (elasticsearch: no answer within 5 s). The ranking rests on dense and multi."
    )
    assert "coverage partial" in render(degraded, Look(100, explain=True))


def test_no_hits_says_why() -> None:
    nothing = replace(ANSWER, hits=(), empty=Emptiness("no row passes year >= 2030; without it 41 do", 41, 0))
    assert render(nothing, Look(100)) == (
        "No hits: no row passes year >= 2030; without it 41 do.\n0 hits · generation 3 · 33 ms\n"
    )


def test_further_chunks_and_copies_are_shown_with_their_hit() -> None:
    inside = HitChunk("e", 5, "", "Another night train to Rome.", (0, 28), 0.51234, FIRST.signals)
    hit = replace(FIRST, chunks=(inside,), same_text=("lab/a", "lab/b"))
    shown = render(replace(ANSWER, hits=(hit,)), Look(100)).splitlines()
    assert shown[1:5] == [
        "    handbook/travel-7#3 · 2 more chunks · same text in lab/a, lab/b",
        "    Ein Nachtzug (night train) wird bis 200 Euro bezahlt.",
        "    #5 0.512",
        "    Another night train to Rome.",
    ]


def test_plan_shows_all_that_was_asked_for() -> None:
    assert ANSWER.plan is not None
    plan = {
        **ANSWER.plan,
        "fusion": "reciprocal-rank",
        "require": ["dense", "multi"],
        "phrases": ["night train", "Rome"],
        "min_score": 0.25,
    }
    shown = " ".join(render(replace(ANSWER, plan=plan), Look(100, explain=True)).split())
    assert "· fusion reciprocal-rank · required dense and multi · texts from qdrant ·" in shown
    assert (
        '"staff") · phrase "night train" in the candidates · phrase "Rome" in the candidates · score at least 0.25 time'
        in shown.replace("acl in (", "")
    )


def test_heads_are_the_first_lines_of_the_first_hits() -> None:
    assert render_heads(ANSWER, Look(100), 1) == WIDE.splitlines(keepends=True)[0]
    assert render_heads(ANSWER, Look(60), 2).splitlines() == [
        line for line in NARROW.splitlines() if re.match(r" [12]  |    dense", line)
    ]


def test_a_long_page_keeps_its_width() -> None:
    shown = render(replace(ANSWER, hits=(FIRST,) * 120), Look(100))
    assert all(cell_len(line) <= 100 for line in shown.splitlines())


def test_untitled_document_shows_its_id() -> None:
    assert "lab/cryo" in render(replace(ANSWER, hits=(replace(SECOND, title=""),)), Look(60)).splitlines()[0]
