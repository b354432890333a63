"""Dead letters of one run: which are new, and the first few for the report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pipelines.ingest.report import FailedDocument
from pipelines.state.runs import DeadLetter

_KEPT = 20


class Letters:
    """Counts a run's dead letters against those that earlier runs left unresolved.

    A letter that says the same of the same document does not alarm again; only a hash of each known one is held.
    """

    def __init__(self, known: Iterable[DeadLetter] = ()) -> None:
        self._known = {_identity(letter) for letter in known}
        self.count = 0
        self.new = 0
        self.first: list[FailedDocument] = []

    def add(self, letters: Iterable[DeadLetter]) -> None:
        """Count letters of this run; new ones come first in `first`."""
        for letter in letters:
            self.count += 1
            fresh = _identity(letter) not in self._known
            self.new += fresh
            shown = _shown(letter)
            if fresh:
                self.first.insert(self.new - 1, shown)
            else:
                self.first.append(shown)
            del self.first[_KEPT:]


def _shown(letter: DeadLetter) -> FailedDocument:
    return FailedDocument(
        tenant=letter.tenant,
        doc_id=letter.doc_id,
        source=letter.source_path,
        stage=letter.stage,
        code=letter.error_code,
        message=letter.message,
    )


def _identity(letter: DeadLetter) -> bytes:
    parts = (letter.tenant, letter.doc_id, letter.source_path, letter.chunk_id, letter.error_code, letter.message)
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=8).digest()
