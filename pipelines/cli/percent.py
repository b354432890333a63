"""Progress as one word on a terminal, for work that is short and not the subject."""

from __future__ import annotations

from typing import TextIO

from pipelines.ingest.progress import NoProgress


class Percent(NoProgress):
    """`sample ... 40 %`, rewritten in place and gone at the end; nothing where no terminal is."""

    def __init__(self, label: str, stream: TextIO) -> None:
        super().__init__()
        self._label = label
        self._stream = stream if stream.isatty() else None

    def encoded(self, tokens: int, text_bytes: int) -> None:
        super().encoded(tokens, text_bytes)
        share = min(1.0, self.meter.text_bytes / max(1, self.meter.total_bytes))
        self._rewrite(f"{self._label} {share:4.0%}")

    def close(self) -> None:
        self._rewrite("")

    def _rewrite(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
