"""JSON is read more strictly than the standard library reads it; shared checks are tested through the documents."""

from __future__ import annotations

import pytest

from m3core.errors import DocumentError
from pipelines.ingest.values import parse_json


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 1, "a": 2}', "a field is given twice in one object"),
        ("[" * 100_000, "x is nested too deeply"),
        ("9" * 5000, "x has an integer of more digits than are read"),
        (b'{"a": "\xff"}', "x is not UTF-8 at byte 7"),
        ('{"a": 1} {', "x is not JSON at code point 9: Extra data"),
    ],
)
def test_json_is_read_strictly(data: str | bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=f"^{reason}"):
        parse_json(data, "x")
