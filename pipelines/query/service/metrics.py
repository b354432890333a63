"""Prometheus metrics of one service. No label carries a tenant, a key or a text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pipelines.query.answer import Answer, Coverage

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counters and times, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "m3_http_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "m3_http_request_seconds", "Time from the first byte to the answer.", ["route"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._in_flight = Gauge("m3_http_in_flight", "Requests being answered.", registry=self.registry)
        self._stages = Histogram(
            "m3_search_stage_seconds", "Time of a search by stage.", ["stage"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._missed = Counter(
            "m3_search_signal_missed", "Searches without a signal of their plan, by cause.", ["signal", "coverage"],
            registry=self.registry,
        )  # fmt: skip
        self._empty = Counter("m3_search_empty", "Searches without a hit.", registry=self.registry)
        self._generation = Gauge("m3_generation", "The generation of the last answer.", registry=self.registry)
        self._ready = Gauge("m3_ready", "1 while a search would be answered.", registry=self.registry)

    def begin(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def end(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is the path's pattern, never the path."""
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, answer: Answer) -> None:
        """A search was answered."""
        for stage, milliseconds in answer.timings_ms.items():
            self._stages.labels(stage).observe(milliseconds / 1e3)
        for signal, coverage in answer.coverage.items():
            if coverage is not Coverage.OK:
                self._missed.labels(signal.value, coverage.value).inc()
        if not answer.hits:
            self._empty.inc()
        self._generation.set(answer.generation)

    def ready(self, is_ready: bool) -> None:
        """Whether a search would be answered."""
        self._ready.set(int(is_ready))

    def serve(self, host: str, port: int) -> int:
        """Answer Prometheus on a port of its own, in a thread; the port (for 0: the one that was free)."""
        server, _ = start_http_server(port, host, self.registry)
        return int(server.server_port)
