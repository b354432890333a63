"""An answer as the service tells it: cut to the page, with snippets and facets, without what stays inside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.query.answer import Answer, Hit
from pipelines.query.service.facets import count_facets
from pipelines.query.service.schemas import SearchBody
from pipelines.query.snippet import snippet

_WHY = {"timeout": "no answer in time", "failed": "its store failed"}
_NOTHING_VISIBLE = "nothing in this collection is visible to you"


def tell(answer: Answer, body: SearchBody, limit: int) -> dict[str, Any]:
    """`Answer.as_json()` of the best `limit` hits, and what `body` asked for besides.

    A store's own words and the collection's size are not for callers: `why` becomes one of a few sentences, and a
    collection that is empty answers like one in which the caller may see nothing.
    """
    shown = replace(answer, hits=answer.hits[:limit])
    told = shown.as_json()
    told["why"] = {signal: _WHY.get(told["coverage"].get(signal, ""), "not available") for signal in told["why"]}
    if answer.empty is not None and answer.empty.visible == 0:
        told["empty"]["reason"] = _NOTHING_VISIBLE
    if body.snippet:
        for hit, value in zip(shown.hits, told["hits"], strict=True):
            value["snippet"] = _snippet(hit, body)
    if body.facets:
        told["facets"] = count_facets(answer.hits, body.facets)
    return told


def _snippet(hit: Hit, body: SearchBody) -> dict[str, Any]:
    part = snippet(hit.text, body.query, body.snippet)
    return {
        "text": part.text,
        "marks": [list(mark) for mark in part.marks],
        "cut_before": part.cut_before,
        "cut_after": part.cut_after,
    }
