"""What a bulk writer moves: one serialised row, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar, overload

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Item:
    """One change of one row, serialised as it goes over the wire."""

    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class MadeLater(Sequence[Item], Generic[_Row]):
    """Items that are made of rows when they are asked for: the next request while others are on their way."""

    rows: Sequence[_Row]
    make: Callable[[_Row], Item]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> MadeLater[_Row]: ...

    def __getitem__(self, at: int | slice) -> Item | MadeLater[_Row]:
        return MadeLater(self.rows[at], self.make) if isinstance(at, slice) else self.make(self.rows[at])


class Kind(StrEnum):
    """What became of an item. Only `transient` ones are sent again."""

    DONE = "done"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    TOO_LARGE = "too-large"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The store's word on one item; `reason` has no text of a document."""

    id: str
    kind: Kind
    reason: str = ""


class BusyError(Exception):
    """The whole request may not have been carried out, and may be later: 429, 503, a timeout, a reset connection.

    `retry_after`: seconds that the store asked for. `overloaded`: a smaller request may fare better.
    """

    def __init__(self, reason: str, *, retry_after: float = 0.0, overloaded: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.overloaded = overloaded


class RefusedError(Exception):
    """The whole request was refused, for something in it: too large, or one item that spoils the others."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Budget:
    """What one request may hold. A single item beyond it goes alone."""

    bytes: int
    rows: int

    def halved(self) -> Budget:
        """Half of it, one row at least."""
        return Budget(max(1, self.bytes // 2), max(1, self.rows // 2))

    def grown(self, most: Budget) -> Budget:
        """A sixteenth of `most` more than now, within `most`."""
        return Budget(
            min(most.bytes, self.bytes + max(1, most.bytes // 16)), min(most.rows, self.rows + max(1, most.rows // 16))
        )


def cut(items: Iterable[Item], budget: Budget) -> Iterator[list[Item]]:
    """Items in their order, in parts within the budget."""
    part: list[Item] = []
    size = 0
    for item in items:
        if part and (size + len(item.body) > budget.bytes or len(part) == budget.rows):
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item.body)
    if part:
        yield part
