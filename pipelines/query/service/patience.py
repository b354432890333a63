"""uvicorn's HTTP protocol with an end to its patience: a connection that sends no whole head for a while is closed.

uvicorn waits for a first request for ever, and for the rest of one that began: a few hundred clients that send a byte a
minute would keep everybody else out. Bodies have a time limit of their own (guard.py); a running request has none here.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# From the connection, or from the first byte of the next request on it, to the end of the head.
HEAD_SECONDS = 10.0


class PatientProtocol(H11Protocol):
    """HTTP/1.1 by h11, whose limits on a head's size uvicorn passes on."""

    _closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._closing is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if not self.transport.is_closing():
            self._closing = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
