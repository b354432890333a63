from __future__ import annotations

import pytest

from m3core.nearest import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "guess"),
    [("serch", "search"), ("SEARCH", "search"), ("qdrant_edge", "qdrant-edge"), ("zzz", None), ("", None)],
)
def test_nearest(name: str, guess: str | None) -> None:
    assert nearest(name, ["search", "qdrant-edge", "ingest"]) == guess


def test_the_remedy_names_the_guess_or_everything() -> None:
    assert did_you_mean("serch", ["search", "ingest"]) == 'did you mean "search"?'
    assert did_you_mean("zzz", ["search", "ingest"]) == "use one of ingest, search"
    assert did_you_mean("zzz", []) == "leave it out"
