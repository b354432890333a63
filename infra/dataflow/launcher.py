"""What the flex template starts: fetches the configuration and runs `m3 ingest --runner dataflow` with it.

The template's parameters are those of metadata.json. Project, region, network, image and keys of the job are in the
configuration, `[runner.dataflow]`: what Dataflow's launcher adds on its own (--runner, --project, --job_name and more)
says the same again and is not passed on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PLACE = Path("/tmp/m3.toml")  # noqa: S108 - a container of its own


def parameters(arguments: Sequence[str]) -> argparse.Namespace:
    """The template's parameters; ends the process with 2 if one is wrong."""
    parser = argparse.ArgumentParser(prog="threefold-launcher", allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--max_delete_fraction", default="")
    parser.add_argument("--if_locked", choices=["fail", "skip"], default="fail")
    parser.add_argument("--dry_run", choices=["true", "false"], default="false")
    return parser.parse_known_args(arguments)[0]


def command(asked: argparse.Namespace, config: Path) -> list[str]:
    """The words of m3."""
    words = ["m3", "ingest", "--config", str(config), "--runner", "dataflow", "--if-locked", asked.if_locked]
    if asked.max_delete_fraction:
        words += ["--max-delete-fraction", asked.max_delete_fraction]
    if asked.dry_run == "true":
        words.append("--dry-run")
    return words


def fetch(address: str, place: Path) -> None:
    """Copy the configuration, from gs:// or wherever Beam can read."""
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.open(address) as opened:
        place.write_bytes(opened.read())


def main(arguments: Sequence[str]) -> None:
    """Become m3; its exit code is the launcher's."""
    asked = parameters(arguments)
    fetch(asked.config, PLACE)
    words = command(asked, PLACE)
    os.execvp(words[0], words)  # noqa: S606 - no shell, our own command


if __name__ == "__main__":
    main(sys.argv[1:])
