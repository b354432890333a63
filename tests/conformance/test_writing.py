"""Writing: idempotent, exact, tolerant of unknown ids, strict about what cannot be kept."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from connectors.filters.tree import AnyOf, Equals
from connectors.protocol import CompactingSink, Patch
from connectors.queries import payload_of
from m3core.errors import ConfigError, LockedError, StoreError
from m3core.types import ChunkVectors, Metadata, Row, Signal
from tests.conformance.data import DENSE_DIM, MULTI_DIM, SCHEMA, make_query, make_rows, row_id, with_chunk
from tests.conformance.store import Store


def test_write_acknowledges_every_row_and_scan_lists_them_by_id(store: Store) -> None:
    rows = make_rows(30)
    assert store.write(rows).acknowledged == 30
    assert store.listed() == sorted((row.chunk.id, 1) for row in rows)


def test_writing_again_changes_nothing_but_the_revision(store: Store) -> None:
    rows = make_rows(10)
    store.write(rows)
    before = store.fetch([row.chunk.id for row in rows])
    store.write([replace(row, revision=2) for row in rows])
    assert store.listed() == sorted((row.chunk.id, 2) for row in rows)
    after = store.fetch([row.chunk.id for row in rows])
    assert after == {chunk_id: replace(payload, revision=2) for chunk_id, payload in before.items()}


def test_a_rewritten_row_is_the_new_row_in_every_signal(store: Store) -> None:
    old, other = make_rows(2)
    store.write([old])
    new = Row(replace(other.chunk, id=old.chunk.id), other.vectors, 2)
    store.write([new])
    query = make_query(1)
    scores = {signal: store.score(signal, query, [old.chunk.id]) for signal in store.signals}
    store.write([replace(other, revision=2)])
    for signal in store.signals:
        expected = store.score(signal, query, [other.chunk.id])[other.chunk.id]
        assert scores[signal][old.chunk.id] == pytest.approx(expected, abs=1e-6)
    assert store.fetch([old.chunk.id])[old.chunk.id] == payload_of(new)


def test_rewriting_without_tokens_drops_the_old_ones(store: Store) -> None:
    row = make_rows(1)[0]
    nothing = np.empty(0, np.uint32), np.empty(0, np.float32), np.empty((0, MULTI_DIM), np.float16)
    store.write([row])
    store.write([replace(row, vectors=ChunkVectors(row.vectors.dense, *nothing), revision=2)])
    query = make_query(1, tokens=80)
    for signal in set(store.signals) - {Signal.DENSE}:
        assert store.search(signal, query) == []
        assert store.score(signal, query, [row.chunk.id]) == {row.chunk.id: 0.0}


def test_delete_removes_rows_and_ignores_unknown_ids(store: Store) -> None:
    rows = make_rows(6)
    store.write(rows)
    store.change(lambda sink: sink.delete([rows[0].chunk.id, row_id(99), rows[3].chunk.id]))
    left = sorted(row.chunk.id for row in (rows[1], rows[2], rows[4], rows[5]))
    assert [chunk_id for chunk_id, _ in store.listed()] == left
    assert store.count() == 4
    assert store.fetch([rows[0].chunk.id]) == {}
    assert store.visible() == set(left)


def test_patch_replaces_metadata_and_acl_and_nothing_else(store: Store) -> None:
    row, other = make_rows(2)
    row = with_chunk(row, acl=("staff",))
    store.write([row, other])
    query = make_query(3)
    before = {signal: store.score(signal, query, [row.chunk.id]) for signal in store.signals}
    metadata: Metadata = {"kind": "patched", "tags": ("x",), "public": False}
    patch = Patch(row.chunk.id, metadata, ("board",), 7)
    store.change(lambda sink: sink.patch([patch, Patch(row_id(99), {}, ("everyone",), 7)]))
    expected = replace(row, chunk=replace(row.chunk, metadata=metadata, acl=("board",)), revision=7)
    assert store.fetch([row.chunk.id, other.chunk.id, row_id(99)]) == {
        row.chunk.id: payload_of(expected),
        other.chunk.id: payload_of(other),
    }
    assert store.listed() == sorted([(row.chunk.id, 7), (other.chunk.id, 1)])
    assert {signal: store.score(signal, query, [row.chunk.id]) for signal in store.signals} == before
    assert store.visible(Equals("kind", "patched")) == store.visible(AnyOf("tags", ("x",))) == {row.chunk.id}
    assert row.chunk.id not in store.visible(AnyOf("acl", row.chunk.acl))


def test_empty_calls_do_nothing(store: Store) -> None:
    store.write([])
    store.change(lambda sink: sink.delete([]))
    store.change(lambda sink: sink.patch([]))
    assert store.listed() == []
    assert store.count() == 0
    for signal in store.signals:
        assert store.search(signal, make_query(0)) == []
        assert store.score(signal, make_query(0), [row_id(1)]) == {}


def test_rows_survive_closing_and_opening(store: Store) -> None:
    rows = make_rows(20)
    store.write(rows)
    before = store.search(Signal.LEXICAL, make_query(2))
    store.close()
    assert store.listed() == sorted((row.chunk.id, 1) for row in rows)
    assert store.search(Signal.LEXICAL, make_query(2)) == before
    assert store.fetch([rows[4].chunk.id]) == {rows[4].chunk.id: payload_of(rows[4])}


def test_a_payload_comes_back_exactly_in_every_plane_of_unicode(store: Store) -> None:
    planes = "".join(chr(point) for plane in range(17) for point in (plane * 0x10000 + 0x21, plane * 0x10000 + 0xFFFD))
    text = "\x00\x01\x1f\x7f\x85\u200f\u202e\ufeff\r\n\t\"'\\" + planes + chr(sys.maxunicode)
    metadata: Metadata = {
        "kind": text,
        "tags": (text, "", "b"),
        "year": -(2**53),
        "weight": 1e-300,
        "public": True,
        "a.b": 2.0,
        'quote"[0]': 1,
        text: (),
    }
    row = with_chunk(
        make_rows(1)[0], text=text, context=text, title=text, doc_id=text, language="", metadata=metadata, acl=(text,)
    )
    assert store.write([row]).failures == ()
    found = store.fetch([row.chunk.id])[row.chunk.id]
    assert found == payload_of(row)
    assert {name: type(value) for name, value in found.metadata.items()} == {
        name: type(value) for name, value in metadata.items()
    }


def _spoiled() -> list[tuple[str, Row, Signal | None]]:
    """Reason, row, and the signal that is spoiled: a store that does not keep it does not look at it."""
    row = make_rows(1)[0]
    vectors = row.vectors
    nan = np.full(DENSE_DIM, np.nan, np.float16)
    return [
        ("not a UUID", with_chunk(row, id="doc-1"), None),
        ("not a UUID", with_chunk(row, id=row.chunk.id.upper()), None),
        ("lone surrogate", with_chunk(row, text="\ud800"), None),
        ("lone surrogate", with_chunk(row, metadata={"\udfff": 1}), None),
        ("beyond 2^53", with_chunk(row, metadata={"other": 2**53 + 1}), None),
        ("NaN", with_chunk(row, metadata={"weight": float("nan")}), None),
        ("declared as integer and holds a bool", with_chunk(row, metadata={"year": True}), None),
        ("declared as strings and holds a str", with_chunk(row, metadata={"tags": "a"}), None),
        ("dense vector has shape (3,)", replace(row, vectors=replace(vectors, dense=vectors.dense[:3])), Signal.DENSE),
        (
            "dense vector has a value that is not finite",
            replace(row, vectors=replace(vectors, dense=nan)),
            Signal.DENSE,
        ),
        (
            "not ascending",
            replace(row, vectors=replace(vectors, lexical_ids=vectors.lexical_ids[::-1])),
            Signal.LEXICAL,
        ),
        (
            "not positive",
            replace(row, vectors=replace(vectors, lexical_weights=-vectors.lexical_weights)),
            Signal.LEXICAL,
        ),
        (
            "not positive",
            replace(row, vectors=replace(vectors, lexical_weights=vectors.lexical_weights * np.float32(0))),
            Signal.LEXICAL,
        ),
        ("shapes", replace(row, vectors=replace(vectors, lexical_weights=vectors.lexical_weights[:1])), Signal.LEXICAL),
        ("multi-vectors have shape", replace(row, vectors=replace(vectors, multi=vectors.multi[:, :5])), Signal.MULTI),
    ]


@pytest.mark.parametrize(
    ("reason", "row", "spoiled"), _spoiled(), ids=[f"{n}-{each[0]}" for n, each in enumerate(_spoiled())]
)
def test_what_cannot_be_kept_exactly_is_a_failure_and_the_others_go_in(
    store: Store, reason: str, row: Row, spoiled: Signal | None
) -> None:
    good = make_rows(1, first=50)[0]
    result = store.write([row, good])
    if spoiled is not None and spoiled not in store.signals:
        assert (result.acknowledged, result.failures) == (2, ())
        return
    assert result.acknowledged == 1
    assert [failure.kind for failure in result.failures] == ["permanent"]
    assert reason in result.failures[0].reason
    assert store.listed() == [(good.chunk.id, 1)]


def test_vectors_of_zeros_are_kept_and_score_zero(store: Store) -> None:
    """A model that gives them is wrong, and no reason to lose the row's text and its other signals."""
    row, other = make_rows(2)
    zeros = replace(row.vectors, dense=np.zeros_like(row.vectors.dense), multi=np.zeros_like(row.vectors.multi))
    assert store.write([replace(row, vectors=zeros), other]).failures == ()
    query = make_query(1)
    for signal in set(store.signals) - {Signal.LEXICAL}:
        scores = store.score(signal, query, [row.chunk.id, other.chunk.id])
        assert scores[row.chunk.id] == pytest.approx(0.0, abs=1e-6)
        assert scores[other.chunk.id] != 0.0
    assert store.listed() == sorted((each.chunk.id, 1) for each in (row, other))


def test_the_longest_multi_vector_that_a_store_declares_goes_in_and_one_more_does_not(store: Store) -> None:
    most = store.sink().capabilities.max_vectors_per_row
    store.close()
    if most > 10_000:
        pytest.skip(f"{store.kind} declares no small bound ({most})")
    row, other = make_rows(2)
    longest = np.resize(row.vectors.multi, (most, MULTI_DIM))
    result = store.write(
        [
            replace(row, vectors=replace(row.vectors, multi=longest)),
            replace(other, vectors=replace(other.vectors, multi=np.resize(longest, (most + 1, MULTI_DIM)))),
        ]
    )
    assert [(failure.id, failure.kind) for failure in result.failures] == [(other.chunk.id, "too-large")]
    assert store.listed() == [(row.chunk.id, 1)]


def test_a_row_of_a_later_run_is_not_overwritten(store: Store, request: pytest.FixtureRequest) -> None:
    """A writer that was paused past its lease wakes up and writes, patches and deletes what it still had."""
    if not store.change(lambda sink: sink.capabilities.fences):
        reason = f"{store.kind} declares no fencing: audit finds what slipped"
        request.node.add_marker(pytest.mark.xfail(reason=reason, raises=pytest.fail.Exception, strict=True))
    rows = make_rows(3)
    later = [replace(row, revision=7) for row in rows]
    store.write(later)
    expected = store.fetch([row.chunk.id for row in rows])
    with closing(store.opened(revision=6)) as paused:
        for change in (
            lambda: paused.write([replace(with_chunk(rows[0], text="old"), revision=6)]),
            lambda: paused.patch([Patch(rows[1].chunk.id, {}, ("board",), 6)]),
            lambda: paused.delete([rows[2].chunk.id]),
        ):
            with pytest.raises(LockedError):
                change()
    assert store.fetch([row.chunk.id for row in rows]) == expected
    store.write(later)  # the same run again is no conflict
    assert store.listed() == sorted((row.chunk.id, 7) for row in rows)


def test_a_row_that_was_deleted_can_be_written_again(store: Store) -> None:
    row = make_rows(1)[0]
    for revision in (1, 2):
        store.write([replace(row, revision=revision)])
        store.change(lambda sink: sink.delete([row.chunk.id]))
        assert store.listed() == []
        store.write([replace(row, revision=revision)])
        assert store.listed() == [(row.chunk.id, revision)]


def test_one_write_may_name_a_row_twice_and_the_last_counts(store: Store) -> None:
    row = make_rows(1)[0]
    assert store.write([with_chunk(row, text="first"), row]).acknowledged == 2
    assert store.fetch([row.chunk.id]) == {row.chunk.id: payload_of(row)}
    assert store.count() == 1


def test_another_schema_is_refused(store: Store) -> None:
    store.write(make_rows(1))
    store.close()
    changed = Store.of(store.kind, store.root, dense_dim=DENSE_DIM + 1)
    with pytest.raises(StoreError, match=r"dense_dim 32, not 33|another schema"):
        changed.sink()
    changed.close()


def test_another_generation_is_another_store(store: Store) -> None:
    store.write(make_rows(3))
    second = Store.of(store.kind, store.root, generation=2)
    assert second.listed() == []
    second.write(make_rows(1))
    assert len(store.listed()) == 3
    second.close()


@pytest.mark.parametrize("name", ["exists", "AND", "a b", "1st", "acl", "x" * 65, 'a"b'])
def test_a_field_that_filters_cannot_name_is_refused(store: Store, name: str) -> None:
    named = Store.of(store.kind, store.root, fields={name: SCHEMA.fields["kind"]})
    with pytest.raises(ConfigError, match="field"):
        named.sink()
    named.close()


def test_a_store_without_the_text_filters_all_the_same(store: Store) -> None:
    rows = make_rows(12)
    bare = Store.of(store.kind, store.root, keeps_text=False, signals=frozenset(store.signals[:1]))
    bare.write(rows)
    assert bare.visible() == {row.chunk.id for row in rows}
    with pytest.raises(StoreError, match="does not keep texts"):
        bare.fetch([rows[0].chunk.id])
    for signal in set(Signal) - set(bare.signals):
        with pytest.raises(StoreError, match=f"does not keep {signal}"):
            bare.search(signal, make_query(0))
    bare.close()


def test_a_dropped_generation_is_gone_and_another_stays(store: Store) -> None:
    rows = make_rows(4)
    other = Store.of(store.kind, store.root, generation=2)
    store.write(rows)
    other.write(rows[:3])
    for _ in range(2):
        with closing(store.opened()) as sink:
            sink.drop()
    assert other.listed() == sorted((row.chunk.id, 1) for row in rows[:3])
    other.close()
    store.write(rows[:1])
    assert store.listed() == [(rows[0].chunk.id, 1)]


def test_compacting_changes_nothing_that_anybody_sees(store: Store) -> None:
    rows = make_rows(9)
    store.write(rows)
    store.change(lambda sink: sink.delete([rows[4].chunk.id]))
    ids = [row.chunk.id for row in rows]
    listed, payloads = store.listed(), store.fetch(ids)
    scores = store.score(store.signals[0], make_query(1), ids)
    store.change(lambda sink: sink.compact() if isinstance(sink, CompactingSink) else None)
    assert (store.listed(), store.fetch(ids)) == (listed, payloads)
    assert store.score(store.signals[0], make_query(1), ids) == pytest.approx(scores, abs=1e-3)
    store.write(make_rows(1, first=50))
    assert len(store.listed()) == 9
