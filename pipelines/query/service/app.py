"""The service as one ASGI application: routes, the page, problems, start and end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from m3core.errors import M3Error, UsageError
from pipelines.query.service import schemas
from pipelines.query.service.describe import is_live
from pipelines.query.service.guard import Guard
from pipelines.query.service.pages import page
from pipelines.query.service.problems import Problem, ProblemError, internal, not_ready, of_error
from pipelines.query.service.routes import api, probes
from pipelines.query.service.service import ClientGoneError, Service

_log = logging.getLogger("m3.serve")
_MAX_ERRORS = 10
_MAX_SHOWN = 100


def create_app(service: Service) -> Guard:
    """The whole service; what a server runs."""
    return Guard(create_api(service), service.settings, service.metrics)


def create_api(service: Service) -> FastAPI:
    """Routes and problems, without the ring around them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.readiness.start()
        yield
        await service.readiness.stop()
        await service.router.aclose()
        await service.known.aclose()

    app = FastAPI(
        title="threefold",
        summary="Search over three signals of one M3 model",
        version=version("threefold"),
        # The usual documentation pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # Traces of requests would carry query strings; those are people's questions.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=lifespan,
    )
    app.state.service = service
    for router in (api, probes, page):
        app.include_router(router)
    _add_problems(app)
    _add_schema(app)
    return app


def _add_schema(app: FastAPI) -> None:
    """Name the model of problems, which no route returns by itself, in the OpenAPI document."""
    generate = app.openapi

    def with_problems() -> dict[str, Any]:
        document = generate()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components["ProblemTold"] = schemas.ProblemTold.model_json_schema()
        return document

    app.openapi = with_problems  # type: ignore[method-assign]


def _add_problems(app: FastAPI) -> None:
    app.exception_handler(ProblemError)(_on_problem)
    app.exception_handler(M3Error)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http)
    app.exception_handler(ClientGoneError)(_on_gone)
    # The guard logs it: the framework raises it again after this answer.
    app.exception_handler(Exception)(_on_fault)


async def _on_problem(request: Request, error: ProblemError) -> Response:
    return _told(error.problem, request)


async def _on_error(request: Request, error: M3Error) -> Response:
    if isinstance(error, UsageError) and not await is_live(request.app.state.service):
        return _told(not_ready(), request)
    problem = of_error(error)
    if problem.status >= 500:
        _log.warning("%s: %s, request %s", error.code, error.message, request.state.request_id)
    return _told(problem, request)


async def _on_invalid(request: Request, error: RequestValidationError) -> Response:
    # The values stay out: they are people's questions, and whoever sent them knows them.
    errors = [
        {"at": ".".join(map(str, each["loc"]))[:_MAX_SHOWN], "rule": each["msg"][:_MAX_SHOWN]}
        for each in error.errors()[:_MAX_ERRORS]
    ]
    detail = f"{errors[0]['at']}: {errors[0]['rule']}" if errors else "the request breaks a rule"
    return _told(Problem(422, "invalid", detail, "openapi.json says what is allowed", errors=errors), request)


async def _on_http(request: Request, error: HTTPException) -> Response:
    code = {404: "not-found", 405: "method"}.get(error.status_code, "http")
    problem = Problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))
    return _told(problem, request)


async def _on_gone(_request: Request, _error: Exception) -> Response:
    # Nobody reads it; 499 is what nginx calls it in a log.
    return Response(status_code=499)


async def _on_fault(request: Request, _error: Exception) -> Response:
    return _told(internal(), request)


def _told(problem: Problem, request: Request) -> Response:
    return Response(problem.encoded(request.state.request_id), problem.status, problem.all_headers())
