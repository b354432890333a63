"""What a filter means: two-valued evaluation on one row. Every store must agree with this module."""

from __future__ import annotations

from typing import Protocol

from connectors.filters.tree import And, AnyOf, Between, Equals, Everything, Exists, Filter, FilterValue, Not, Or
from m3core.types import Metadata, MetadataValue


class Filterable(Protocol):
    """What a filter looks at: a Chunk and a Payload both have it."""

    @property
    def tenant(self) -> str: ...
    @property
    def doc_id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def metadata(self) -> Metadata: ...
    @property
    def acl(self) -> tuple[str, ...]: ...


def matches(where: Filter, row: Filterable) -> bool:
    """True if the row passes. Absent, null and empty list are one; so is an empty title or language."""
    match where:
        case Everything():
            return True
        case Not(part=part):
            return not matches(part, row)
        case And(parts=parts):
            return all(matches(part, row) for part in parts)
        case Or(parts=parts):
            return any(matches(part, row) for part in parts)
        case _:
            return _holds(where, _values(row, where.field))


def _holds(condition: Equals | AnyOf | Between | Exists, values: tuple[FilterValue, ...]) -> bool:
    match condition:
        case Exists():
            return bool(values)
        case Equals(value=wanted):
            return any(_equal(value, wanted) for value in values)
        case AnyOf(values=wanted_values):
            return any(_equal(value, wanted) for value in values for wanted in wanted_values)
        case Between():
            return any(_within(value, condition) for value in values)


def _values(row: Filterable, name: str) -> tuple[FilterValue, ...]:
    value: MetadataValue | None
    match name:
        case "tenant":
            value = row.tenant
        case "acl":
            value = row.acl
        case "doc_id":
            value = row.doc_id
        case "title":
            value = row.title or None
        case "language":
            value = row.language or None
        case _:
            value = row.metadata.get(name)
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def _equal(value: FilterValue, wanted: FilterValue) -> bool:
    # In Python True == 1; in a filter a boolean equals booleans only.
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def _within(value: FilterValue, bounds: Between) -> bool:
    if isinstance(value, bool | str):
        return False
    return (
        (bounds.gt is None or value > bounds.gt)
        and (bounds.gte is None or value >= bounds.gte)
        and (bounds.lt is None or value < bounds.lt)
        and (bounds.lte is None or value <= bounds.lte)
    )
