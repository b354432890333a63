"""OpenTelemetry traces of requests, if an address to send them to is configured. Needs the extra `traces`.

The standard ASGI instrumentation makes the spans. It would put addresses into them, and those hold people's questions
and documents' ids; so it is shown a request without path, query string, client and headers, but the trace's own ones.
A span gets the route's pattern, and of a search what its stages took and what was lost. No text, nobody's name.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from m3core.errors import MissingExtraError
from pipelines.query.answer import Answer
from pipelines.query.service.guard import PROBES, UNMATCHED

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

# Where the routes leave the answer of a search, and this module the request as it came.
ANSWER = "answer"
_WHOLE = "m3.whole"
_CARRIERS = (b"traceparent", b"tracestate")


def open_provider(endpoint: str) -> TracerProvider:
    """Sends spans to `endpoint` (OTLP over HTTP) in batches, on a thread of its own. The OTEL_* variables hold besides.

    Raises MissingExtraError.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtraError("serve.traces needs OpenTelemetry", "pip install 'threefold[traces]'") from None
    named = Resource({"service.name": "threefold"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider


def traced(app: ASGIApp, provider: TracerProvider) -> ASGIApp:
    """The application with a span for every request that is no probe."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.metrics import NoOpMeterProvider

    spans = OpenTelemetryMiddleware(
        _whole(app),
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),
        exclude_spans=["receive", "send"],
        # An empty pattern would leave the choice to a variable of the environment.
        excluded_urls="^$",
    )

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await app(scope, receive, send)
        else:
            await spans(_redacted(scope), receive, send)

    return outermost


def _redacted(scope: Scope) -> Scope:
    """The request as the instrumentation may see it; the whole one travels along."""
    carriers = [(name, value) for name, value in scope["headers"] if name in _CARRIERS]
    hidden = {"path": "/", "raw_path": b"/", "query_string": b"", "client": None, "headers": carriers}
    return {**scope, **hidden, _WHOLE: scope}


def _whole(app: ASGIApp) -> ASGIApp:
    """The application behind the instrumentation, with the request as it came."""
    from opentelemetry import trace

    async def inner(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        whole: Scope = scope[_WHOLE]

        async def described(message: Message) -> None:
            # The span ends with the last byte of the answer.
            if message["type"] == "http.response.start":
                _describe(trace.get_current_span(), whole)
            await send(message)

        await app(whole, receive, described)

    return inner


def _describe(span: Span, whole: Scope) -> None:
    route = getattr(whole.get("route"), "path", UNMATCHED)
    span.update_name(UNMATCHED if route == UNMATCHED else f"{whole['method']} {route}")
    # What stands for the whole address in the instrumentation's older and newer names is the pattern, too.
    told = dict.fromkeys(("http.route", "http.target", "http.url"), route)
    span.set_attributes({**told, **_facts(whole.get("state", {}).get(ANSWER))})


def _facts(answer: Answer | None) -> Mapping[str, str | int | float | bool]:
    """What a span of a search tells of its answer."""
    if answer is None:
        return {}
    stages = {f"m3.{stage}_ms": round(spent, 3) for stage, spent in answer.timings_ms.items()}
    coverage = {f"m3.coverage.{signal}": each.value for signal, each in answer.coverage.items()}
    counts = {"m3.generation": answer.generation, "m3.candidates": answer.candidates, "m3.rounds": answer.rounds}
    return {**stages, **coverage, **counts, "m3.hits": len(answer.hits), "m3.degraded": answer.degraded}
