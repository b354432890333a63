"""The filter tree as the conditions of the embedded engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import qdrant_edge as edge

from connectors.filters.tree import Between, Filter
from connectors.protocol import FieldType
from connectors.qdrant.edge.access import ACCESS, access_keys
from connectors.qdrant.filters import conditions_of


def edge_filter(where: Filter, fields: Mapping[str, FieldType], ids: Collection[str] | None = None) -> edge.Filter:
    """`where`, limited to `ids` if given. Raises FilterError for what no store answers."""
    found: edge.Filter = conditions_of(_EdgeConditions(), where, fields, ids)
    return found


class _EdgeConditions:
    def all_of(self, parts: Sequence[Any]) -> Any:
        return edge.Filter(must=list(parts)) if parts else edge.Filter()

    def any_of(self, parts: Sequence[Any]) -> Any:
        return edge.Filter(should=list(parts))

    def none_of(self, parts: Sequence[Any]) -> Any:
        return edge.Filter(must_not=list(parts))

    def among(self, ids: Collection[str]) -> Any:
        return edge.HasIdCondition(set(ids))

    def empty(self, key: str) -> Any:
        return edge.IsEmptyCondition(key)

    def equal(self, key: str, value: Any) -> Any:
        return edge.FieldCondition(key, match=edge.MatchValue(value))

    def equal_any(self, key: str, values: Sequence[Any]) -> Any:
        return edge.FieldCondition(key, match=edge.MatchAny(list(values)))

    def within(self, key: str, bounds: Between) -> Any:
        found = edge.RangeFloat(gt=bounds.gt, gte=bounds.gte, lt=bounds.lt, lte=bounds.lte)
        return edge.FieldCondition(key, range=found)

    def visible_to(self, tenant: str, principals: Sequence[str]) -> Any:
        return self.equal_any(ACCESS, access_keys(tenant, principals))
