"""`m3 config show` and `m3 config schema`."""

from __future__ import annotations

import typer

from pipelines.cli.options import ConfigOption, JsonOption, open_config
from pipelines.cli.report import SCHEMA_VERSION, print_json, say
from pipelines.cli.usage import CommandGroup

app = typer.Typer(name="config", cls=CommandGroup, help="Show the configuration and what it may hold.")


@app.command("show")
def show(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Print every value in force and where it came from."""
    from m3core.config.load import flat
    from m3core.config.problems import dotted
    from m3core.config.toml import toml_value
    from m3core.terminal import plain

    loaded = open_config(config)
    values = {dotted(path): value for path, value in flat(loaded.config)}
    if json:
        plain_values = {dotted(path): value for path, value in flat(loaded.config.model_dump(mode="json"))}
        entries = {key: {"value": plain_values[key], "origin": loaded.origins[key]} for key in values}
        print_json({"schema_version": SCHEMA_VERSION, "file": str(loaded.file), "values": entries})
        return
    rows = [(f"{key} = {plain(toml_value(value))}", loaded.origins[key]) for key, value in values.items()]
    width = min(max(len(left) for left, _ in rows), 68)
    for left, origin in rows:
        say(f"{left:<{width}}  {plain(origin)}")


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    from m3core.config.model import Config

    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    print_json(document)
