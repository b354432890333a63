"""What a running service is made of, and what happens to one request besides the search itself."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from connectors.registry import is_embedded
from m3core.config.model import Config
from m3core.errors import M3Error
from m3core.types import Identity
from pipelines.query.known import KnownCollection
from pipelines.query.live import LiveGeneration
from pipelines.query.router import Router
from pipelines.query.service.apart import open_apart
from pipelines.query.service.audit import AuditLine, AuditLog
from pipelines.query.service.auth import Caller, Door
from pipelines.query.service.keys import KeyFile, KeyRing, Scope, service_folder
from pipelines.query.service.limits import RateLimits
from pipelines.query.service.metrics import Metrics
from pipelines.query.service.problems import ProblemError, not_found
from pipelines.query.service.readiness import Readiness
from pipelines.query.service.settings import ServiceSettings
from pipelines.query.service.tokens import Tokens
from pipelines.state.files import create_if_absent, make_folder
from pipelines.state.paths import StatePaths
from pipelines.state.storage import storage_of

T = TypeVar("T")

_CURSOR_KEY_BYTES = 32


class ClientGoneError(Exception):
    """The client hung up; its work was cancelled, and nobody reads an answer."""


def leaving_room(config: Config) -> Config:
    """The model on half of the cores if an embedded store searches on the others, unless `model.threads` says how many.

    On two cores, with 43,000 chunks: 18.6 new questions a second instead of 12.9 (tests/bench/RESULTS.md).
    """
    if config.model.threads is not None or not any(is_embedded(store.kind) for store in config.stores.values()):
        return config
    model = config.model.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // 2)})
    return config.model_copy(update={"model": model})


@dataclass(frozen=True)
class Service:
    """One collection, served. `router` is long-lived; everything else is small."""

    config: Config
    paths: StatePaths
    known: KnownCollection
    router: Router
    door: Door
    audit: AuditLog
    metrics: Metrics
    readiness: Readiness
    settings: ServiceSettings

    @classmethod
    def open(cls, config: Config, base: Path, settings: ServiceSettings, router: Router | None = None) -> Service:
        """A service over a configuration; no store is opened before it starts. `router` replaces the usual one."""
        storage, name = storage_of(config, base), config.collection.name
        if router is None:
            key = cursor_key(service_folder(storage, name) / "cursor.key")
            usual = Router.open(leaving_room(config), base, cursor_key=key)
            router = replace(usual, stores=LiveGeneration(config, base, open_apart))
        default = Identity(config.search.tenant, config.search.principals)
        tokens = None if config.serve.oidc is None else Tokens.of(config.serve.oidc)
        paths = StatePaths.of(storage, name)
        return cls(
            config=config,
            paths=paths,
            known=KnownCollection(paths),
            router=router,
            door=Door(KeyRing(KeyFile.of(storage, name)), RateLimits(), default, settings.open_access, tokens),
            audit=AuditLog(service_folder(storage, name) / "audit"),
            metrics=Metrics(),
            readiness=Readiness(router),
            settings=settings,
        )

    async def admit(self, request: Request, scope: Scope) -> Caller:
        """The caller, for logs too. Raises ProblemError."""
        caller = await self.door.enter(request.headers, scope)
        request.scope["state"]["key"] = caller.key_id
        return caller

    def check_collection(self, name: str) -> None:
        """Raises ProblemError unless `name` is the collection that is served."""
        if name != self.config.collection.name:
            raise not_found("collection")

    @asynccontextmanager
    async def audited(self, request: Request, caller: Caller, action: str) -> AsyncIterator[Deed]:
        """A line in the audit log for what happens in the block, whatever comes of it."""
        deed = Deed()
        try:
            yield deed
        except ProblemError as error:
            deed.outcome = error.problem.code
            raise
        except M3Error as error:
            deed.outcome = error.code
            raise
        except BaseException as error:
            deed.outcome = "gone" if isinstance(error, ClientGoneError | asyncio.CancelledError) else "internal"
            raise
        finally:
            line = AuditLine(
                request_id=request.scope["state"]["request_id"],
                key=caller.key_id,
                subject=caller.subject,
                tenant=caller.identity.tenant,
                principals=caller.identity.principals,
                acted=caller.acted,
                action=action,
                outcome=deed.outcome,
                hits=deed.hits,
                generation=deed.generation,
                query=deed.query if self.settings.audit_queries else None,
            )
            await asyncio.to_thread(self.audit.write, line)


@dataclass
class Deed:
    """What the audit log is told of one request."""

    outcome: str = "ok"
    hits: int = 0
    generation: int | None = None
    query: str | None = field(default=None, repr=False)


def cursor_key(path: Path) -> bytes:
    """The key of the cursors, made if there is none yet: cursors outlive a restart and are good in every process."""
    make_folder(path.parent)
    create_if_absent(path, secrets.token_bytes(_CURSOR_KEY_BYTES))
    return path.read_bytes()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of `work`; if the client hangs up first, `work` is cancelled and ClientGoneError raised."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
