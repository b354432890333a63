"""The API's routes: thin, one function each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from m3core.fusion import Weights
from m3core.types import ALL_SIGNALS, Identity, QueryVectors, Signal
from pipelines.query.encoding import QueryEncoder
from pipelines.query.errors import OverloadedError
from pipelines.query.request import NO_FILTER, Fusion, SearchRequest
from pipelines.query.service import schemas
from pipelines.query.service.describe import describe, encoder_of_live
from pipelines.query.service.documents import read_document
from pipelines.query.service.facets import check_facets
from pipelines.query.service.problems import MEDIA_TYPE
from pipelines.query.service.readiness import is_ready
from pipelines.query.service.service import Service, while_connected
from pipelines.query.service.settings import FACET_DOCUMENTS, MAX_CHUNKS, MAX_HITS, MAX_SNIPPET
from pipelines.query.service.telling import tell
from pipelines.query.service.traces import ANSWER

_SCHEMA = {"schema": {"$ref": "#/components/schemas/ProblemTold"}}
_PROBLEMS = {
    400: "The request cannot be carried out as it is.",
    401: "No key or token, or none that opens anything.",
    403: "The key or token may not do this, or the request comes from another site.",
    404: "There is no such thing, or the caller may not see it.",
    405: "There is no such method.",
    408: "The request came too slowly.",
    413: "The request is too large.",
    421: "The service does not answer under this name.",
    422: "A part of the request breaks a rule; `errors` names it.",
    429: "Too many requests; Retry-After says when to ask again.",
    431: "Address and headers are too large.",
    500: "A fault of the service.",
    503: "The stores did not answer, or there is nothing to search yet; Retry-After says when to ask again.",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {MEDIA_TYPE: _SCHEMA}} for status, text in _PROBLEMS.items()
}
_ENCODED_AT_ONCE = 4
_BEARER = "an API key (m3 keys create makes one), or a token of the configured issuer"
_ACT_AS = "for keys with the scope act-as: the identity to act for, percent-encoded UTF-8"


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _documented(
    _key: Annotated[
        object,
        Depends(
            HTTPBearer(
                auto_error=False,
                description=_BEARER,
            )
        ),
    ],
    _tenant: Annotated[str | None, Header(alias="M3-Act-As-Tenant", description=_ACT_AS)] = None,
    _principals: Annotated[str | None, Header(alias="M3-Act-As-Principals", description=_ACT_AS)] = None,
) -> None:
    """Puts the headers that `Door` reads into the OpenAPI document."""


Served = Annotated[Service, Depends(_service)]
CollectionName = Annotated[str, Path(max_length=64, description="the collection's name")]
api = APIRouter(prefix="/v1", dependencies=[Depends(_documented)], responses=PROBLEMS)
probes = APIRouter(responses={status: PROBLEMS[status] for status in (403, 405, 408, 413, 421, 422, 431, 500)})


@api.post("/collections/{name}/search", tags=["search"], responses={200: {"model": schemas.SearchTold}})
async def search(request: Request, service: Served, name: CollectionName, body: schemas.SearchBody) -> Response:
    """Ask a collection."""
    caller = await service.admit(request, "search")
    async with service.audited(request, caller, "search") as deed:
        service.check_collection(name)
        deed.query = body.query
        await check_facets(body, service.router.stores)
        limit = min(MAX_HITS, body.limit if body.limit is not None else service.config.search.limit)
        asked = _asked(body, caller.identity, max(limit, FACET_DOCUMENTS) if body.facets else limit)
        answer = await while_connected(request, service.router.search(asked))
        service.metrics.answered(answer)
        request.scope["state"][ANSWER] = answer
        told = tell(answer, body, limit)
        deed.hits, deed.generation = len(told["hits"]), answer.generation
        return _json(told)


@api.get("/collections/{name}/search", tags=["search"], responses={200: {"model": schemas.SearchTold}})
async def simple_search(
    request: Request,
    service: Served,
    name: CollectionName,
    q: Annotated[str, Query(min_length=1, max_length=schemas.MAX_QUERY_CHARS, description="the question")],
    limit: Annotated[int | None, Query(ge=1, le=MAX_HITS)] = None,
    filter: Annotated[str, Query(max_length=schemas.MAX_FILTER_CHARS)] = "",  # noqa: A002 - the parameter's name
    preset: Annotated[str | None, Query(max_length=60)] = None,
    explain: bool = False,
    snippet: Annotated[int, Query(ge=0, le=MAX_SNIPPET)] = 0,
) -> Response:
    """Ask a collection something simple. A query string may be kept by proxies; POST keeps it out of addresses."""
    body = schemas.SearchBody(
        query=q, limit=limit, filter=filter, preset=preset, explain=explain, snippet=snippet
    )  # fmt: skip
    return await search(request, service, name, body)


@api.get("/collections", tags=["collections"], responses={200: {"model": schemas.CollectionsTold}})
async def collections(request: Request, service: Served) -> Response:
    """What can be searched."""
    return _json({"collections": [await _described(request, service)]})


@api.get("/collections/{name}", tags=["collections"], responses={200: {"model": schemas.CollectionTold}})
async def collection(request: Request, service: Served, name: CollectionName) -> Response:
    """One collection: its generation, its fields, and how much of it the caller may see."""
    return _json(await _described(request, service, name))


@api.get(
    "/collections/{name}/documents/{doc_id:path}", tags=["documents"], responses={200: {"model": schemas.DocumentTold}}
)
async def document(
    request: Request,
    service: Served,
    name: CollectionName,
    doc_id: Annotated[str, Path(min_length=1, max_length=2_048)],
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="the first chunk")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_CHUNKS, description="chunks")] = 50,
) -> Response:
    """A document of the caller's tenant, as it is stored: chunk by chunk."""
    caller = await service.admit(request, "search")
    async with service.audited(request, caller, "document") as deed:
        service.check_collection(name)
        part = slice(offset, offset + limit)
        found = await read_document(service.router.stores, service.paths, caller.identity, doc_id, part)
        deed.hits, deed.generation = 1, found["generation"]
        return _json(found)


@api.post("/encode", tags=["encode"], responses={200: {"model": schemas.EncodeTold}})
async def encode(request: Request, service: Served, body: schemas.EncodeBody) -> Response:
    """Encode queries, for callers that ask the stores themselves."""
    caller = await service.admit(request, "encode")
    async with service.audited(request, caller, "encode"):
        encoder = await encoder_of_live(service)
        wanted = body.signals or ALL_SIGNALS
        queries = [SearchRequest(text, caller.identity).query for text in body.texts]
        facts = await encoder.facts()
        with service.router.admission.place(caller.identity.tenant):
            vectors = await while_connected(request, _encoded(encoder, queries, service.config.search.timeout))
        told = [_vectors(each, wanted) for each in vectors]
        return _json({"encoder_fingerprint": facts.fingerprint, "vectors": told})


@probes.get("/healthz", tags=["probes"], responses={200: {"model": schemas.LiveTold}})
async def healthz() -> Response:
    """The process answers. Says nothing of stores and model: a restart would not mend those."""
    return _json({"status": "live"})


@probes.get(
    "/readyz",
    tags=["probes"],
    responses={200: {"model": schemas.ReadyTold}, 503: {"model": schemas.ReadyTold, "description": "Not ready."}},
)
async def readyz(service: Served) -> Response:
    """Whether a search would be answered."""
    checks = await service.readiness.checks()
    ready = is_ready(checks)
    service.metrics.ready(ready)
    return _json({"status": "ready" if ready else "not-ready", "checks": dict(checks)}, 200 if ready else 503)


def _asked(body: schemas.SearchBody, identity: Identity, limit: int) -> SearchRequest:
    weights = body.weights
    return SearchRequest(
        query=body.query,
        identity=identity,
        limit=limit,
        filter=body.filter if body.filter.strip() else NO_FILTER,
        preset=body.preset,
        weights=Weights(weights.dense, weights.lexical, weights.multi) if weights is not None else None,
        signals=_signals(body.signals) if body.signals else None,
        explain=body.explain,
        timeout=body.timeout_s,
        require=_signals(body.require),
        min_score=body.min_score,
        chunks=body.chunks,
        offset=body.offset,
        paged=body.paged,
        cursor=body.cursor,
        fusion=Fusion(body.fusion),
        quotes=body.quotes,
        once=body.once,
    )


async def _described(request: Request, service: Service, name: str | None = None) -> dict[str, Any]:
    """The collection as its caller may know it; the one of that name, where the request names one."""
    caller = await service.admit(request, "search")
    async with service.audited(request, caller, "collections") as deed:
        if name is not None:
            service.check_collection(name)
        told = await describe(service, caller.identity)
        deed.generation = told["generation"]
        return told


async def _encoded(encoder: QueryEncoder, queries: Sequence[str], seconds: float) -> list[QueryVectors]:
    """A few at once go through the model together; all at once would keep searches waiting for a deadline's time.

    Raises OverloadedError if it takes longer than a search may.
    """
    await encoder.ready()
    vectors: list[QueryVectors] = []
    try:
        async with asyncio.timeout(seconds):
            for start in range(0, len(queries), _ENCODED_AT_ONCE):
                few = queries[start : start + _ENCODED_AT_ONCE]
                vectors += await asyncio.gather(*(encoder.encode_query(query) for query in few))
    except TimeoutError:
        raise OverloadedError(
            f"the model encoded {len(vectors)} of {len(queries)} texts in {seconds:g} s",
            "ask again later, or for fewer texts at once",
        ) from None
    return vectors


def _signals(names: Sequence[str]) -> tuple[Signal, ...]:
    return tuple(signal for signal in Signal if signal.value in names)


def _vectors(query: QueryVectors, wanted: Sequence[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "dense" in wanted and query.dense is not None:
        told["dense"] = query.dense.tolist()
    if "lexical" in wanted and query.lexical_ids is not None and query.lexical_weights is not None:
        told["lexical"] = {"ids": query.lexical_ids.tolist(), "weights": query.lexical_weights.tolist()}
    if "multi" in wanted and query.multi is not None:
        told["multi"] = query.multi.tolist()
    return told


def _json(value: Any, status: int = 200) -> Response:
    # Numbers that are not finite are refused: they are no JSON, and no score is one.
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")
