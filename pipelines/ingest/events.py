"""What happens in a run, one line each, for machines: which document, which chunk, which store; never a text.

Events go to the logger `m3.run`. They are quiet until somebody listens: the command does with M3_LOG=json
(`m3core/logs.py`), which writes a JSON object per line to stderr; a program adds a handler.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pipelines.state.runs import DeadLetter

_log = logging.getLogger("m3.run")
# Without somebody who listens its warnings would reach stderr, beside the lines for people.
_log.addHandler(logging.NullHandler())
_log.propagate = False


@dataclass(frozen=True)
class RunEvents:
    """The events of one run; every line says which."""

    collection: str
    run: int

    def say(self, event: str, level: int = logging.INFO, **facts: str | int | float) -> None:
        """One line. `facts` are ids, names and numbers."""
        if _log.isEnabledFor(level):
            _log.log(level, event, extra={"m3": {"collection": self.collection, "run": self.run, **facts}})

    def dead_letter(self, letter: DeadLetter) -> None:
        """A document or a chunk that failed; its message is in `m3 dead-letters`, where texts are checked."""
        ids = {
            "tenant": letter.tenant,
            "doc_id": letter.doc_id,
            "source": letter.source_path,
            "chunk_id": letter.chunk_id,
        }
        facts = {name: value for name, value in ids.items() if value}
        self.say("dead letter", logging.WARNING, stage=letter.stage, code=letter.error_code, **facts)
