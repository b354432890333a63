"""`m3 keys create`, `list` and `revoke`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.amounts import moment
from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import SCHEMA_VERSION, note, print_json, say
from pipelines.cli.usage import CommandGroup, whole_number

if TYPE_CHECKING:
    from m3core.config.load import LoadedConfig
    from pipelines.query.service.keys import KeyFile, KeyRecord

app = typer.Typer(name="keys", cls=CommandGroup, help="API keys of m3 serve: who may ask, and as whom.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, to find it in the list.")],
    config: ConfigOption = None,
    identity: Annotated[
        str | None,
        typer.Option("--as", metavar="TENANT:PRINCIPALS", help="Whom it searches for; default the configuration's."),
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", metavar="NAME", help="search (default), encode, act-as; repeat it.")
    ] = None,
    act_as_tenant: Annotated[
        list[str] | None,
        typer.Option("--act-as-tenant", metavar="TENANT", help="Tenants it may act for; default its own; '*': any."),
    ] = None,
    per_minute: Annotated[
        int, typer.Option("--per-minute", metavar="N", parser=whole_number, help="Requests a minute; 0: no limit.")
    ] = 600,
    days: Annotated[int, typer.Option("--days", metavar="N", parser=whole_number, help="How long it lasts.")] = 90,
    json: JsonOption = False,
) -> None:
    """Make a key and show it, once.

    Only its hash is kept. From the first key on, m3 serve asks everybody for one.
    """
    from pipelines.cli.search import caller
    from pipelines.query.service.keys import KeyWish

    loaded = open_config(config)
    wish = KeyWish(
        name=name,
        identity=caller(identity, loaded.config),
        scopes=tuple(scope or ("search",)),
        act_as_tenants=tuple(act_as_tenant or ()),
        per_minute=per_minute,
        days=days,
    )
    text, record = _file(loaded).create(wish)
    if json:
        print_json({"schema_version": SCHEMA_VERSION, "key": text, **_told(record)})
        return
    say(text)
    note(f"key {record.id} · {_whom(record)} · {', '.join(record.scopes)} · until {moment(record.expires)} UTC")
    note("It is not shown again; keep it like a password.")


@app.command("list")
def list_(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List all keys, revoked and expired ones too."""
    records = _file(open_config(config)).records()
    if json:
        print_json({"schema_version": SCHEMA_VERSION, "keys": [_told(record) for record in records]})
        return
    if not records:
        say("no keys: m3 serve answers this machine only")
    for record in records:
        until = f"until {moment(record.expires)} UTC" if record.state(time.time()) == "valid" else ""
        state = record.state(time.time())
        say(f"{record.id}  {state:<7}  {record.name} · {_whom(record)} · {', '.join(record.scopes)}  {until}".rstrip())


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="Its name, or the first digits of its id.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key open nothing, from the next request on."""
    record = _file(open_config(config)).revoke(key)
    if json:
        print_json({"schema_version": SCHEMA_VERSION, **_told(record)})
    else:
        say(f"{record.id} revoked: {record.name}")


def _file(loaded: LoadedConfig) -> KeyFile:
    from pipelines.query.service.keys import KeyFile
    from pipelines.state.storage import storage_of

    config = loaded.config
    return KeyFile.of(storage_of(config, loaded.base), config.collection.name)


def _whom(record: KeyRecord) -> str:
    return f"{record.tenant}:{','.join(record.principals)}"


def _told(record: KeyRecord) -> dict[str, Any]:
    """Everything but the hash."""
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state(time.time()),
        "tenant": record.tenant,
        "principals": list(record.principals),
        "scopes": list(record.scopes),
        "act_as_tenants": list(record.act_as_tenants),
        "per_minute": record.per_minute,
        "created": record.created,
        "expires": record.expires,
        "revoked": record.revoked or None,
    }
