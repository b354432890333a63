"""What was wrong with a data set: counted by kind, the first few named. Nothing of it is used in silence."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

_EXAMPLES = 5


class Problem(Enum):
    """Kind, what it is in words, and what was done about it."""

    BROKEN_ROW = ("broken-row", "rows that cannot be read", "left out")
    DUPLICATE_DOCUMENT = ("duplicate-document-id", "documents with an id that came before", "left out")
    DUPLICATE_QUERY = ("duplicate-query-id", "queries with an id that came before", "left out")
    EMPTY_DOCUMENT = ("empty-document", "documents without text", "searched as they are")
    EMPTY_QUERY = ("empty-query", "queries without text", "left out")
    BAD_LANGUAGE = ("bad-language", "language fields that are no language tag", "taken as none")
    REPEATED_JUDGEMENT = ("repeated-judgement", "judgements of a pair that was judged before", "left out")
    UNKNOWN_QUERY = ("unknown-query", "judgements of a query that is not in the queries", "left out")
    UNKNOWN_DOCUMENT = ("unknown-document", "judgements of a document that is not in the corpus", "left out")
    NOTHING_RELEVANT = ("no-relevant-document", "queries without a relevant document", "left out")

    @property
    def kind(self) -> str:
        """Its name in JSON."""
        return self.value[0]


@dataclass
class Problems:
    """Counts and examples: ids and places, never a text."""

    counts: dict[Problem, int] = field(default_factory=dict)
    examples: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, problem: Problem, example: str) -> None:
        """One more of a kind."""
        self.counts[problem] = self.counts.get(problem, 0) + 1
        named = self.examples.setdefault(problem, [])
        if len(named) < _EXAMPLES:
            named.append(example)

    def as_json(self) -> list[dict[str, Any]]:
        """One object per kind that occurred."""
        return [
            {"kind": each.kind, "count": self.counts[each], "effect": each.value[2], "examples": self.examples[each]}
            for each in Problem
            if each in self.counts
        ]

    def lines(self) -> list[str]:
        """`3 queries without text, left out: q7, q9, q12`, one per kind that occurred."""
        lines = []
        for each in Problem:
            if each in self.counts:
                named = ", ".join(self.examples[each]) + (", ..." if self.counts[each] > _EXAMPLES else "")
                lines.append(f"{self.counts[each]:,} {each.value[1]}, {each.value[2]}: {named}")
        return lines
