"""The part of every filter that no user writes: the caller's tenant and principals."""

from __future__ import annotations

from connectors.filters.evaluate import Filterable
from connectors.filters.tree import And, AnyOf, Equals, Everything, Filter
from m3core.types import Identity


def identity_filter(identity: Identity) -> Filter:
    """Rows of the identity's tenant whose acl names one of its principals; without principals, no row."""
    return And((Equals("tenant", identity.tenant), AnyOf("acl", tuple(sorted(set(identity.principals))))))


def is_visible(row: Filterable, identity: Identity) -> bool:
    """Whether a row passes `identity_filter`: what is said of every row again once a store has answered."""
    return row.tenant == identity.tenant and not set(identity.principals).isdisjoint(row.acl)


def with_identity(where: Filter, identity: Identity) -> Filter:
    """`where`, limited to what the identity may see."""
    if isinstance(where, Everything):
        return identity_filter(identity)
    return And((where, identity_filter(identity)))
