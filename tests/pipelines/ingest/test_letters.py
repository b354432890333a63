"""Which dead letters are new."""

from __future__ import annotations

from dataclasses import replace

from pipelines.ingest.letters import Letters
from pipelines.state.runs import DeadLetter

LETTER = DeadLetter("read", "default", "a.md", "a.md", "document", "text is empty", attempts=4, run=3)


def test_the_same_fault_of_the_same_document_does_not_alarm_again() -> None:
    letters = Letters([LETTER])
    letters.add([replace(LETTER, attempts=1, run=9), replace(LETTER, message="text has U+0000")])
    assert (letters.count, letters.new) == (2, 1)
    assert [letter.message for letter in letters.first] == ["text has U+0000", "text is empty"]


def test_only_the_first_twenty_are_kept_and_new_ones_come_first() -> None:
    known = [replace(LETTER, doc_id=f"k{number}") for number in range(30)]
    letters = Letters(known)
    letters.add(known)
    letters.add([replace(LETTER, doc_id=f"n{number}") for number in range(3)])
    assert (letters.count, letters.new) == (33, 3)
    assert [letter.doc_id for letter in letters.first] == ["n0", "n1", "n2", *(f"k{n}" for n in range(17))]
    letters.add([replace(LETTER, doc_id=f"n{number}") for number in range(3, 40)])
    assert [letter.doc_id for letter in letters.first] == [f"n{n}" for n in range(20)]
