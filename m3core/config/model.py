"""The configuration as one typed model. Reading it from TOML and the environment is `m3core.config.load`'s."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from pydantic import AfterValidator, Field, model_validator

from m3core.config.runner import RunnerSection
from m3core.config.section import Section, broken_rule
from m3core.config.toml import toml_value

COLLECTION_PATTERN = r"^[a-z][a-z0-9_]{0,40}$"
NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,40}$"

FieldKind = Literal["string", "strings", "integer", "number", "boolean"]
SignalName = Literal["dense", "lexical", "multi"]
# Signatures with a key pair only: what the issuer publishes must not be enough to make a token.
SigningAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
# Metadata cannot use the names of the row's own fields.
RESERVED_FIELDS = frozenset(
    {"id", "tenant", "doc_id", "ordinal", "span", "title", "context", "text", "language", "acl", "revision", "metadata"}
)


_BUCKETS = ("s3:", "gs:")
_BUCKET_URL = re.compile(r"(s3|gs)://[^/?#@:]+(/[^?#]*)?")
_LOOPBACK_URL = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/|$)")


class CollectionSection(Section):
    """What is being built."""

    name: Annotated[str, Field(pattern=COLLECTION_PATTERN, description="names state and stores; a-z, 0-9 and _")]


def _names_bucket(path: Path) -> bool:
    return bool(path.parts) and path.parts[0] in _BUCKETS


def _local(path: Path) -> Path:
    """Refuse the address of a bucket, which a path would silently make a folder of."""
    if _names_bucket(path):
        rule = "is a folder of this machine; a bucket is named by storage.url"
        raise broken_rule("storage.path", rule, "move the address to storage.url")
    return path


def _check_address(at: str, url: str) -> None:
    if "@" in url.partition("://")[2].partition("/")[0]:
        # The value is not shown: it may be the secret itself.
        raise broken_rule(at, "must not hold credentials", "they come from the environment, as AWS_ACCESS_KEY_ID")
    if not _BUCKET_URL.fullmatch(url):  # whatever follows ? or # would be dropped without a word
        rule = f"= {toml_value(url[:80])}: must be s3:// or gs://, a bucket, and at most a prefix"
        raise broken_rule(at, rule, "write it as s3://BUCKET/PREFIX; ? and # in a prefix are %3F and %23")


def _state_address(url: str) -> str:
    if url:
        _check_address("storage.url", url)
    return url


class StorageSection(Section):
    """Where state and embedded stores live on this machine."""

    path: Annotated[
        Path,
        AfterValidator(Path.expanduser),
        AfterValidator(_local),
        Field(description="folder for state and embedded stores; relative to the configuration"),
    ] = Path("m3-data")
    url: Annotated[
        str,
        AfterValidator(_state_address),
        Field(
            max_length=500,
            description="bucket and prefix that keep the state, s3:// or gs://; `path` is then this machine's copy",
        ),
    ] = ""


class LoadOptions(TypedDict):
    """Arguments of m3core.Encoder.load."""

    threads: int | None
    device: str
    precision: str
    long_pooling: str | None


class ModelSection(Section):
    """Which checkpoint encodes."""

    name: Annotated[str, Field(min_length=1, description="m3-small, a folder, or a hub id with `revision`")] = (
        "m3-small"
    )
    revision: Annotated[str | None, Field(pattern=r"^[0-9a-f]{40}$", description="40-hex commit of a hub id")] = None
    threads: Annotated[
        int | None,
        Field(
            ge=1,
            description="CPU threads for the forward pass; default all cores, in m3 serve beside embedded stores half",
        ),
    ] = None
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto (a GPU if there is one), cpu, cuda or cuda:N")
    ] = "auto"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Field(description="of the backbone; auto: the fastest here that is exact enough; int8 vectors meet no others"),
    ] = "auto"
    long_pooling: Annotated[
        Literal["mcls"] | None,
        Field(description="mcls: a cls in front of every 256 tokens, averaged; for models that pool cls"),
    ] = None

    def loading(self) -> LoadOptions:
        """How the encoder is to be loaded from the model's folder."""
        return {
            "threads": self.threads,
            "device": self.device,
            "precision": self.precision,
            "long_pooling": self.long_pooling,
        }


class SourceSection(Section):
    """One place documents come from, bound to one tenant."""

    kind: Annotated[Literal["folder", "jsonl", "parquet"], Field(description="what lies there")]
    path: Annotated[
        Path | None, Field(description="folder or file; relative to the configuration; this or `url` is given")
    ] = None
    url: Annotated[
        str,
        Field(
            max_length=1100,
            description="instead of `path`: s3:// or gs://, bucket, and prefix of the objects or (jsonl, parquet) one",
        ),
    ] = ""
    tenant: Annotated[str, Field(min_length=1, max_length=128, description="every document belongs to it")] = "default"
    allowed_tenants: Annotated[
        tuple[str, ...], Field(description="tenants that documents of this source may name themselves")
    ] = ()
    acl: Annotated[
        tuple[str, ...] | None,
        Field(description="principals for documents without their own acl; without it such documents are refused"),
    ] = None
    language: Annotated[str, Field(max_length=35, description="for documents that do not say theirs")] = ""
    id_field: Annotated[str, Field(min_length=1, description="field with the document's id (jsonl, parquet)")] = (
        "doc_id"
    )
    text_field: Annotated[str, Field(min_length=1, description="field with the text (jsonl, parquet)")] = "text"
    max_document_bytes: Annotated[int, Field(ge=1, le=1 << 30, description="a larger document is a dead letter")] = (
        10 << 20
    )
    max_total_bytes: Annotated[int, Field(ge=1, description="a source that expands to more is refused")] = 1 << 40

    @property
    def place_key(self) -> str:
        """The key that says where the source lies."""
        return "url" if self.path is None else "path"

    @property
    def place(self) -> str:
        """Where the source lies, as the configuration says it."""
        return self.url if self.path is None else str(self.path)


def _check_place(at: str, path: Path | None, url: str) -> None:
    """Raise broken_rule unless a source lies in one place, which each key names in its own way."""
    if path is None and not url:
        raise broken_rule(f"{at}.path", "is missing", f"add path to [{at}], or url for a bucket")
    if path is None:
        _check_address(f"{at}.url", url)
    elif url:
        rule = f"= {toml_value(url[:80])}: path = {toml_value(path)} is given too"
        raise broken_rule(f"{at}.url", rule, "a source lies in one place: leave one of the two out")
    elif _names_bucket(path):
        rule = f"= {toml_value(str(path)[:80])}: must be a folder or file of this machine"
        raise broken_rule(f"{at}.path", rule, f"write the address as url of [{at}]")


class ChunkingSection(Section):
    """How documents become chunks, in tokens of the model's tokenizer."""

    max_tokens: Annotated[int, Field(ge=32, le=8192, description="of context and body; clamped to the model")] = 512
    overlap_tokens: Annotated[int, Field(ge=0, le=1024, description="of the previous chunk repeated; 0 is advised")] = 0


class StoreSection(Section):
    """One store and the signals it keeps."""

    kind: Annotated[str, Field(description="qdrant-edge, qdrant, elasticsearch, milvus or memory")]
    signals: Annotated[tuple[SignalName, ...], Field(min_length=1, description="dense, lexical, multi")] = (
        "dense",
        "lexical",
        "multi",
    )
    text: Annotated[bool, Field(description="keeps texts, metadata and acl; exactly one store does")] = True
    url: Annotated[str, Field(description="a server's address, https://HOST:PORT, without credentials")] = ""
    prefix: Annotated[
        str, Field(pattern=r"^([a-z][a-z0-9_-]{0,40})?$", description="in front of every name on a shared server")
    ] = ""
    api_key: Annotated[str, Field(description='of the server: "env:NAME" or "file:PATH"')] = ""
    username: Annotated[str, Field(description="for basic authentication")] = ""
    password: Annotated[str, Field(description='with `username`: "env:NAME" or "file:PATH"')] = ""
    ca: Annotated[str, Field(description="PEM file of certificates to trust instead of the system's")] = ""


class IngestSection(Section):
    """Bounds of a run."""

    wave_bytes: Annotated[int, Field(ge=1 << 16, description="text per wave; each wave is committed")] = 4 << 20
    max_delete_fraction: Annotated[float, Field(ge=0, le=1, description="more deletes than this are refused")] = 0.05
    batch_tokens: Annotated[
        int | None,
        Field(ge=64, le=1 << 20, description="tokens per forward pass; unset: 4,096 on a CPU, 16,384 on a GPU"),
    ] = None
    min_free_bytes: Annotated[int, Field(ge=0, description="free disk space below which a wave does not start")] = (
        256 << 20
    )
    metrics_file: Annotated[
        str,
        Field(max_length=4096, description="a .prom file that every run replaces, for Prometheus' textfile collector"),
    ] = ""


class SearchSection(Section):
    """Defaults of a query."""

    preset: Annotated[str, Field(description="weights preset: of the model folder's m3.json")] = "balanced"
    limit: Annotated[int, Field(ge=1, le=1000, description="hits per page")] = 10
    candidates: Annotated[int, Field(ge=1, le=10_000, description="per signal, independent of limit")] = 100
    rerank_cap: Annotated[int, Field(ge=1, le=10_000, description="most candidates that get multi-vector scores")] = 400
    timeout: Annotated[float, Field(gt=0, le=300, description="seconds for one query, all stores")] = 10.0
    tenant: Annotated[str, Field(min_length=1, description="whom the command searches for without --as")] = "default"
    principals: Annotated[tuple[str, ...], Field(description="principals of the command without --as")] = ("everyone",)


class OidcSection(Section):
    """Bearer tokens of one OpenID Connect issuer, and what their claims mean here."""

    issuer: Annotated[
        str, Field(pattern=r"^https?://[^\s@?#]+$", description="as the tokens name it, letter by letter")
    ]
    audience: Annotated[str, Field(min_length=1, max_length=256, description="that the tokens must be meant for")]
    jwks_url: Annotated[
        str, Field(pattern=r"^(https?://[^\s@#]+)?$", description="of its keys; without it the issuer is asked for it")
    ] = ""
    ca: Annotated[str, Field(description="PEM file of certificates to trust instead of the system's")] = ""
    algorithms: Annotated[tuple[SigningAlgorithm, ...], Field(min_length=1, description="that are accepted")] = (
        "RS256",
        "ES256",
    )
    leeway: Annotated[int, Field(ge=0, le=300, description="seconds that the clocks may differ")] = 30
    tenant: Annotated[str, Field(max_length=128, description="of every token, where the issuer serves one tenant")] = ""
    tenant_claim: Annotated[str, Field(max_length=256, description="that names the tenant; a.b looks into objects")] = (
        ""
    )
    principals: Annotated[
        dict[str, str],
        Field(description='claims with principals, and what goes in front: {groups = "", sub = "user:"}'),
    ] = {"groups": ""}
    everyone: Annotated[tuple[str, ...], Field(description="principals that every token has besides")] = ()
    scopes: Annotated[
        tuple[Literal["search", "encode"], ...], Field(min_length=1, description="what a token may do")
    ] = ("search",)
    required_scope: Annotated[str, Field(max_length=128, description="a token's scope or scp must name it")] = ""
    per_minute: Annotated[int, Field(ge=0, description="requests of one subject; 0: no limit")] = 600


class ServeSection(Section):
    """Who may ask `m3 serve`, besides API keys, and where it sends its traces."""

    oidc: Annotated[OidcSection | None, Field(description="bearer tokens of an OpenID Connect issuer")] = None
    traces: Annotated[
        str,
        Field(pattern=r"^(https?://[^\s@#]+)?$", description="OTLP over HTTP: http://HOST:4318/v1/traces; empty: none"),
    ] = ""


class Config(Section):
    """The whole configuration of one collection."""

    collection: CollectionSection
    storage: StorageSection = StorageSection()
    model: ModelSection = ModelSection()
    sources: Annotated[dict[Annotated[str, Field(pattern=NAME_PATTERN)], SourceSection], Field(min_length=1)]
    fields: Annotated[
        dict[str, FieldKind], Field(description="metadata fields that can be filtered on, with their type")
    ] = {}
    chunking: ChunkingSection = ChunkingSection()
    stores: Annotated[dict[Annotated[str, Field(pattern=NAME_PATTERN)], StoreSection], Field(min_length=1)] = {
        "main": StoreSection(kind="qdrant-edge")
    }
    ingest: IngestSection = IngestSection()
    runner: RunnerSection = RunnerSection()
    search: SearchSection = SearchSection()
    serve: ServeSection = ServeSection()

    @model_validator(mode="after")
    def _each_source_lies_in_one_place(self) -> Config:
        for name, source in self.sources.items():
            _check_place(f"sources.{name}", source.path, source.url)
        return self

    @model_validator(mode="after")
    def _each_signal_in_one_store(self) -> Config:
        keeper: dict[str, str] = {}
        for name, store in self.stores.items():
            for signal in store.signals:
                if signal in keeper:
                    rule = f"{signal} is already kept by store {keeper[signal]}"
                    raise broken_rule(f"stores.{name}.signals", rule, f"name {signal} in one of them only")
                keeper[signal] = name
        return self

    @model_validator(mode="after")
    def _one_store_keeps_the_text(self) -> Config:
        texts = [name for name, store in self.stores.items() if store.text]
        if len(texts) != 1:
            rule = f"must keep the text in exactly one store, not in {len(texts)}"
            raise broken_rule("stores", rule, "set text = true in one of them and text = false in the others")
        return self

    @model_validator(mode="after")
    def _secrets_are_references(self) -> Config:
        # Broken rules do not show the value, which may be the secret itself.
        for name, store in self.stores.items():
            for key, value in (("api_key", store.api_key), ("password", store.password)):
                if value and not value.startswith(("env:", "file:")):
                    rule = "must say where the secret is, not the secret"
                    raise broken_rule(f"stores.{name}.{key}", rule, 'write "env:NAME" or "file:PATH"')
            if "@" in store.url:
                rule = "must not hold credentials"
                raise broken_rule(f"stores.{name}.url", rule, "name them by api_key, or by username and password")
        return self

    @model_validator(mode="after")
    def _fields_are_not_reserved(self) -> Config:
        for name in self.fields:
            if name in RESERVED_FIELDS:
                raise broken_rule(f"fields.{name}", "is a name of the row itself", "rename the metadata field")
        return self

    @model_validator(mode="after")
    def _tokens_lead_to_one_tenant(self) -> Config:
        oidc = self.serve.oidc
        if oidc is not None and bool(oidc.tenant) == bool(oidc.tenant_claim):
            rule = "must be given, or tenant_claim, and not both"
            raise broken_rule("serve.oidc.tenant", rule, 'write tenant = "acme", or tenant_claim = "tenant"')
        return self

    @model_validator(mode="after")
    def _issuers_are_reached_safely(self) -> Config:
        oidc = self.serve.oidc
        for key, url in () if oidc is None else (("issuer", oidc.issuer), ("jwks_url", oidc.jwks_url)):
            # Who can change an answer on its way could put keys of their own into it.
            if url.startswith("http://") and not _LOOPBACK_URL.match(url):
                raise broken_rule(f"serve.oidc.{key}", "must begin with https://", "http is for this machine only")
        return self
