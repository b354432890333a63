"""Which keys the configuration knows, and of what type each is: read from the model, never written twice."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import TypeGuard, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from m3core.config.model import Config
from m3core.config.positions import KeyPath
from m3core.config.section import Section


def known_keys(path: KeyPath) -> tuple[str, ...]:
    """The keys that the table at `path` may hold; () where there is no such table or its keys are free names."""
    found = type_at(path)
    return tuple(found.model_fields) if _is_section(found) else ()


def type_at(path: KeyPath) -> object | None:
    """The declared type of the value at `path` without its constraints, or None for an unknown key."""
    found: object | None = Config
    for part in path:
        found = _inner(found, part)
    return found


def field_at(path: KeyPath) -> FieldInfo | None:
    """Default, description and constraints of the key at `path`; None if unknown or a free name."""
    table = type_at(path[:-1])
    return table.model_fields.get(path[-1]) if path and _is_section(table) else None


def members(annotation: object) -> tuple[object, ...]:
    """The alternatives of a union, or the type itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def is_table(annotation: object) -> bool:
    """Whether values of this type are tables: a section or a mapping of free names."""
    return _is_section(annotation) or get_origin(annotation) is dict


def is_list(annotation: object) -> bool:
    """Whether values of this type are lists."""
    return any(get_origin(member) is tuple for member in members(annotation))


def allows_none(annotation: object) -> bool:
    """Whether the key may be left without a value."""
    return NoneType in members(annotation)


def _inner(found: object | None, name: str) -> object | None:
    if _is_section(found):
        field = found.model_fields.get(name)
        return field.annotation if field is not None else None
    if get_origin(found) is dict:
        value: object = get_args(found)[1]
        return value
    return None


def _is_section(found: object) -> TypeGuard[type[Section]]:
    return isinstance(found, type) and issubclass(found, Section)
