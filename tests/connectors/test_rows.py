"""What stores say of a write in which ids stand twice, and of changes that were refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from connectors.protocol import Failure, StoreOptions
from connectors.rows import check_opened_for, last_of_each, require_changed, write_result
from m3core.errors import ConfigError, StoreError
from tests.conformance.data import SCHEMA, make_rows, with_chunk


def test_of_rows_with_one_id_the_last_is_sent_and_speaks_for_all() -> None:
    first, second, third = make_rows(3)
    again = with_chunk(first, text="again")
    assert last_of_each([first, second, again]) == [again, second]
    earlier = (Failure(third.chunk.id, "too-large", "9 vectors"),)
    refused = [Failure(first.chunk.id, "permanent", "400")]
    result = write_result([first, second, again], refused, earlier)
    assert result.acknowledged == 1
    assert result.failures == (*earlier, *refused, *refused)
    assert write_result([first, second, again], [], ()).acknowledged == 3


def test_a_refused_change_is_an_error_that_names_the_first() -> None:
    require_changed([], "words")
    refused = [Failure("a", "permanent", "400 x_exception"), Failure("b", "permanent", "400")]
    with pytest.raises(StoreError, match=r"store 'words' refused to change 2 rows, a first: 400 x_exception"):
        require_changed(refused, "words")


def test_a_sink_ensures_the_schema_that_it_was_opened_for() -> None:
    options = StoreOptions("words", Path("unused"), SCHEMA)
    check_opened_for(SCHEMA, options)
    with pytest.raises(StoreError, match="store 'words' was opened for another schema of m3_docs_g00001"):
        check_opened_for(replace(SCHEMA, dense_dim=33), options)
    odd = replace(SCHEMA, fields={"a b": SCHEMA.fields["kind"]})
    with pytest.raises(ConfigError, match="field"):
        check_opened_for(odd, replace(options, schema=odd))
