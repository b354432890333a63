"""`m3 serve`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from m3core.errors import MissingExtraError, RefusedError
from pipelines.cli.options import ConfigOption, open_config
from pipelines.cli.report import note, say
from pipelines.cli.terminated import cleaning_up_on_sigterm
from pipelines.cli.usage import whole_number

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    config: ConfigOption = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; another than loopback needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", metavar="N", parser=whole_number, help="0: a free one.")] = 8080,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A proxy's name for the service; needs keys. Repeat it."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", metavar="N", parser=whole_number, help="Prometheus metrics on a port beside."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", metavar="ADDRESS", help="Address of the metrics.")
    ] = "127.0.0.1",
    audit_queries: Annotated[
        bool, typer.Option("--audit-queries", help="Write the queries' texts to the audit log too.")
    ] = False,
    grace: Annotated[
        int, typer.Option("--grace", metavar="SECONDS", parser=whole_number, help="For running requests at the end.")
    ] = 10,
) -> None:
    """Answer searches over HTTP, with a page at /.

    Without API keys only this machine is answered, as the tenant and principals of the configuration.
    """
    _check_installed()
    from pipelines.query.service.app import create_app
    from pipelines.query.service.running import Listening, address, allowed_hosts, bind, is_loopback, run
    from pipelines.query.service.service import Service
    from pipelines.query.service.settings import ServiceSettings

    loaded = open_config(config)
    listening = Listening(host, port, grace)
    # A name from elsewhere is a proxy's: it sends other machines' requests from this one.
    is_private = listening.is_loopback and all(map(is_loopback, allow_host or ()))
    settings = ServiceSettings(
        hosts=allowed_hosts(listening, allow_host or ()),
        open_access=is_private,
        audit_queries=audit_queries,
    )
    service = Service.open(loaded.config, loaded.base, settings)
    if not is_private and service.door.tokens is None and not service.door.ring.any():
        reached = host if not listening.is_loopback else ", ".join(allow_host or ())
        raise RefusedError(
            f"{reached} can be reached from other machines, and there is no API key",
            "m3 keys create NAME, configure serve.oidc, or listen on 127.0.0.1 without --allow-host",
        )
    with cleaning_up_on_sigterm(), bind(listening) as opened:
        if metrics_port is not None:
            note(f"metrics at http://{metrics_host}:{service.metrics.serve(metrics_host, metrics_port)}/metrics")
        say(f"{loaded.config.collection.name} at {address(opened)}")
        if not service.door.guarded:
            whom = f"{loaded.config.search.tenant}:{','.join(loaded.config.search.principals)}"
            note(f"no API keys: only this machine is answered, as {whom}")
        with _traced(create_app(service), loaded.config.serve.traces) as app:
            run(app, opened, grace)


@contextmanager
def _traced(app: ASGIApp, endpoint: str) -> Iterator[ASGIApp]:
    """The application, with traces if there is somebody to send them to; what is left of them is sent at the end."""
    from pipelines.query.service.traces import open_provider, traced

    if not endpoint:
        yield app
        return
    provider = open_provider(endpoint)
    try:
        yield traced(app, provider)
    finally:
        provider.shutdown()


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"m3 serve needs {', '.join(missing)}", "pip install 'threefold[serve]'")
