"""The filter tree as the conditions of the server's client: models, never a query language of strings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qdrant_client import models

from connectors.filters.tree import Between, Filter
from connectors.protocol import FieldType
from connectors.qdrant.filters import conditions_of


def server_filter(where: Filter, fields: Mapping[str, FieldType], ids: Collection[str] | None = None) -> models.Filter:
    """`where`, limited to `ids` if given. Raises FilterError for what no store answers."""
    found: models.Filter = conditions_of(_ServerConditions(), where, fields, ids)
    return found


class _ServerConditions:
    def all_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(should=list(parts))

    def none_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(must_not=list(parts))

    def among(self, ids: Collection[str]) -> Any:
        return models.HasIdCondition(has_id=list(ids))

    def empty(self, key: str) -> Any:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))

    def equal(self, key: str, value: Any) -> Any:
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))

    def equal_any(self, key: str, values: Sequence[Any]) -> Any:
        return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))

    def within(self, key: str, bounds: Between) -> Any:
        found = models.Range(gt=bounds.gt, gte=bounds.gte, lt=bounds.lt, lte=bounds.lte)
        return models.FieldCondition(key=key, range=found)

    def visible_to(self, tenant: str, principals: Sequence[str]) -> Any:
        return self.all_of([self.equal("tenant", tenant), self.equal_any("acl", principals)])
