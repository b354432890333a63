"""Options that several commands share, and how they open the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from m3core.config.load import LoadedConfig

ConfigOption = Annotated[
    Path | None,
    typer.Option("-c", "--config", metavar="FILE", help="Configuration; default $M3_CONFIG, then ./m3.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]


def open_config(path: Path | None) -> LoadedConfig:
    """The configuration that `-c` names, checked against the stores that exist. Raises ConfigError."""
    from connectors.connection import check_stores
    from connectors.registry import kinds
    from m3core.config.load import load_config

    loaded = load_config(path, os.environ, store_kinds=kinds())
    check_stores(loaded.config.stores)
    return loaded
