"""The filter tree as Qdrant's conditions, meaning exactly what `connectors.filters.evaluate` says.

The embedded engine and the server take the same conditions in classes of their own: `Conditions` is what they have in
common.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from connectors.filters.bounds import tightest
from connectors.filters.check import check_filter
from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, FilterValue, Not, Or
from connectors.protocol import FieldType
from connectors.qdrant.payload import field_key, stored_value


class Conditions(Protocol):
    """Makes conditions. `key` is a payload path; every result may be a part of `all_of`, `any_of` and `none_of`."""

    def all_of(self, parts: Sequence[Any]) -> Any:
        """Every part holds; without parts every row passes."""

    def any_of(self, parts: Sequence[Any]) -> Any:
        """A part holds; never called without parts."""

    def none_of(self, parts: Sequence[Any]) -> Any:
        """No part holds."""

    def among(self, ids: Collection[str]) -> Any:
        """The row's id is one of `ids`."""

    def empty(self, key: str) -> Any:
        """Absent, null or an empty list."""

    def equal(self, key: str, value: Any) -> Any:
        """The word or integer is `value`, or an element of the list is."""

    def equal_any(self, key: str, values: Sequence[Any]) -> Any:
        """The word or integer, or an element of the list, is one of `values`."""

    def within(self, key: str, bounds: Between) -> Any:
        """The number is within the bounds, of which each side has one at most."""

    def visible_to(self, tenant: str, principals: Sequence[str]) -> Any:
        """The row is the tenant's and its acl names one of `principals`; never called without principals."""


def conditions_of(
    make: Conditions, where: Filter, fields: Mapping[str, FieldType], ids: Collection[str] | None = None
) -> Any:
    """`where`, limited to `ids` if given. Raises FilterError for what no store answers."""
    check_filter(where, fields, by_identity=True)
    parts = [_condition(make, where, fields)]
    return make.all_of(parts if ids is None else [*parts, make.among(ids)])


def _condition(make: Conditions, where: Filter, fields: Mapping[str, FieldType]) -> Any:
    match where:
        case Everything() | And(parts=()):
            return make.all_of([])
        case Not(part=part):
            return make.none_of([_condition(make, part, fields)])
        case And(parts=(Equals(field="tenant", value=str(tenant)), AnyOf(field="acl", values=readers))) if readers:
            return make.visible_to(tenant, [str(each) for each in readers])
        case And(parts=parts):
            return make.all_of([_condition(make, part, fields) for part in parts])
        case Or(parts=parts):
            # To Qdrant an empty `should` matches every row.
            return make.any_of([_condition(make, part, fields) for part in parts]) if parts else make.among(())
        case Exists(field=name):
            return make.none_of([make.empty(field_key(name))])
        case Equals(field=name, value=value):
            return _equals(make, name, value, fields)
        case AnyOf(field=name, values=values):
            return _any_of(make, name, values, fields)
        case Between(field=name):
            return _between(make, where, name)


def _equals(make: Conditions, name: str, value: FilterValue, fields: Mapping[str, FieldType]) -> Any:
    key = field_key(name)
    if fields.get(name) == FieldType.NUMBER and not isinstance(value, str):
        # A match is for integers and words; a closed range of one point is exact for every float64.
        return make.within(key, Between(name, gte=value, lte=value))
    return make.equal(key, stored_value(value))


def _any_of(make: Conditions, name: str, values: tuple[FilterValue, ...], fields: Mapping[str, FieldType]) -> Any:
    if not values:
        return make.among(())
    if fields.get(name) == FieldType.NUMBER:
        return make.any_of([_equals(make, name, value, fields) for value in values])
    return make.equal_any(field_key(name), [stored_value(value) for value in values])


def _between(make: Conditions, where: Between, name: str) -> Any:
    if where.gt is where.gte is where.lt is where.lte is None:
        return make.none_of([make.empty(field_key(name))])
    return make.within(field_key(name), tightest(where))
