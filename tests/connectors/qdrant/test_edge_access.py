"""Tenant and acl as one condition: nobody sees what another tenant's principal of a like name sees."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from connectors.filters.identity import with_identity
from connectors.filters.tree import Equals, Everything, Not
from connectors.protocol import Patch
from connectors.qdrant.edge.access import access_keys
from m3core.types import Identity
from tests.conformance.data import make_rows
from tests.conformance.store import Store

NAMES = st.text(alphabet=st.sampled_from("ab1:\x00é"), max_size=4)
ALIKE = (("a", "b:c"), ("a:b", "c"), ("1:a", "b"), ("1", "a:b"), ("b:c", "a"))


@given(NAMES, NAMES, NAMES, NAMES)
def test_two_pairs_never_have_the_same_key(tenant: str, principal: str, other: str, another: str) -> None:
    same = access_keys(tenant, [principal]) == access_keys(other, [another])
    assert same == ((tenant, principal) == (other, another))


def test_names_that_look_alike_are_told_apart_also_after_a_patch(store: Store) -> None:
    rows = [
        replace(row, chunk=replace(row.chunk, tenant=tenant, acl=(principal,)))
        for row, (tenant, principal) in zip(make_rows(len(ALIKE)), ALIKE, strict=True)
    ]
    store.write(rows)
    for row in rows:
        identity = Identity(row.chunk.tenant, (*row.chunk.acl, "nobody"))
        assert store.count(with_identity(Everything(), identity)) == 1
        assert store.count(with_identity(Equals("doc_id", row.chunk.doc_id), identity)) == 1
        assert store.count(with_identity(Not(Equals("doc_id", row.chunk.doc_id)), identity)) == 0
    first = rows[0].chunk
    store.change(lambda sink: sink.patch([Patch(first.id, first.metadata, ("c",), 2)]))
    assert store.count(with_identity(Everything(), Identity("a", ("b:c",)))) == 0
    assert store.count(with_identity(Everything(), Identity("a", ("c",)))) == 1
    assert store.count(with_identity(Everything(), Identity("a:b", ("c",)))) == 1
    assert store.count(with_identity(Everything(), Identity("a", ()))) == 0
