"""The search page: a few files of ours, served as they are. No build step, nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from pipelines.query.service.problems import not_found

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_ASSETS = frozenset({"style.css", "app.js", "api.js", "hits.js", "state.js", "dom.js", "icon.svg"})

page = APIRouter(include_in_schema=False)


@page.get("/")
async def index() -> Response:
    """The page."""
    return _file("index.html")


@page.get("/page/{name}")
async def asset(name: str) -> Response:
    """One of its files."""
    if name not in _ASSETS:
        raise not_found("file")
    return _file(name)


def _file(name: str) -> Response:
    return Response(_read(name), media_type=f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8")


@cache
def _read(name: str) -> bytes:
    return (files("pipelines.query.service") / "page" / name).read_bytes()
