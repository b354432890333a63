"""Who may see a row, in one payload key of the embedded engine.

Every search asks for a tenant and some principals. Edge takes a first condition from its index and looks every row up
for a second one: over 43,000 rows one condition on this key costs 1 ms, two on `tenant` and `acl` cost 6.
"""

from __future__ import annotations

from collections.abc import Iterable

ACCESS = "access"


def access_keys(tenant: str, principals: Iterable[str]) -> list[str]:
    """One word for each principal within the tenant; no two pairs have the same, whatever is in their names."""
    return [f"{len(tenant)}:{tenant}:{principal}" for principal in principals]
