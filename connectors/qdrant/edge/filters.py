"""The filter tree as Edge's conditions, meaning exactly what `connectors.filters.evaluate` says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import qdrant_edge as edge

from connectors.filters.bounds import tightest
from connectors.filters.check import check_filter
from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, FilterValue, Not, Or
from connectors.protocol import FieldType
from connectors.qdrant.edge.schema import field_key, stored_value


def edge_filter(where: Filter, fields: Mapping[str, FieldType], ids: Collection[str] | None = None) -> edge.Filter:
    """`where`, limited to `ids` if given. Raises FilterError for what no store answers."""
    check_filter(where, fields, by_identity=True)
    must = [_condition(where, fields)]
    if ids is not None:
        must.append(edge.HasIdCondition(set(ids)))
    return edge.Filter(must=must)


def _condition(where: Filter, fields: Mapping[str, FieldType]) -> Any:
    match where:
        case Everything() | And(parts=()):
            return edge.Filter()
        case Not(part=part):
            return edge.Filter(must_not=[_condition(part, fields)])
        case And(parts=parts):
            return edge.Filter(must=[_condition(part, fields) for part in parts])
        case Or(parts=parts):
            # To Edge an empty `should` matches every row.
            return edge.Filter(should=[_condition(part, fields) for part in parts]) if parts else _nothing()
        case Exists(field=name):
            return _exists(name)
        case Equals(field=name, value=value):
            return _equals(name, value, fields)
        case AnyOf(field=name, values=values):
            return _any_of(name, values, fields)
        case Between(field=name):
            return _between(where, name)


def _nothing() -> edge.HasIdCondition:
    return edge.HasIdCondition(set())


def _exists(name: str) -> edge.Filter:
    return edge.Filter(must_not=[edge.IsEmptyCondition(field_key(name))])


def _equals(name: str, value: FilterValue, fields: Mapping[str, FieldType]) -> edge.FieldCondition:
    if fields.get(name) == FieldType.NUMBER and not isinstance(value, str):
        # A match is for integers and words; a closed range of one point is exact for every float64.
        return edge.FieldCondition(field_key(name), range=edge.RangeFloat(gte=value, lte=value))
    return edge.FieldCondition(field_key(name), match=edge.MatchValue(stored_value(value)))


def _any_of(name: str, values: tuple[FilterValue, ...], fields: Mapping[str, FieldType]) -> Any:
    if not values:
        return _nothing()
    if fields.get(name) == FieldType.NUMBER:
        return edge.Filter(should=[_equals(name, value, fields) for value in values])
    return edge.FieldCondition(field_key(name), match=edge.MatchAny([stored_value(value) for value in values]))


def _between(where: Between, name: str) -> Any:
    if where.gt is where.gte is where.lt is where.lte is None:
        return _exists(name)
    one = tightest(where)
    bounds = edge.RangeFloat(gt=one.gt, gte=one.gte, lt=one.lt, lte=one.lte)
    return edge.FieldCondition(field_key(name), range=bounds)
