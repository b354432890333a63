"""The filter tree: small, frozen, the same for every store.

Two-valued: an absent field, null and an empty list are the same, and `Not` of a condition on them matches.
"""

from __future__ import annotations

from dataclasses import dataclass

FilterValue = str | int | float | bool

# Fields of every row besides the declared metadata. `tenant` and `acl` are set from the caller's identity only.
BUILT_IN_FIELDS = ("doc_id", "language", "title")
IDENTITY_FIELDS = ("tenant", "acl")


@dataclass(frozen=True, slots=True)
class Everything:
    """Matches every row."""


@dataclass(frozen=True, slots=True)
class Equals:
    """The field equals the value, or, for a list field, contains it."""

    field: str
    value: FilterValue


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field equals, or its list contains, at least one of the values. No values match nothing."""

    field: str
    values: tuple[FilterValue, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """The number lies within the bounds that are given."""

    field: str
    gt: float | int | None = None
    gte: float | int | None = None
    lt: float | int | None = None
    lte: float | int | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there and is neither null nor an empty list."""

    field: str


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not match."""

    part: Filter


@dataclass(frozen=True, slots=True)
class And:
    """Every part matches; no parts match everything."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part matches; no parts match nothing."""

    parts: tuple[Filter, ...]


Filter = Everything | Equals | AnyOf | Between | Exists | Not | And | Or
