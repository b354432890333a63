"""The compose files, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.connection import check_stores
from connectors.elasticsearch.client import LEAST_VERSION as LEAST_ELASTICSEARCH
from connectors.milvus.client import LEAST_VERSION as LEAST_MILVUS
from connectors.qdrant.server.client import LEAST_VERSION as LEAST_QDRANT
from m3core.config.load import load_config
from tests.servers.elasticsearch import VERSION

FOLDER = Path(__file__).parents[2] / "infra" / "compose"
LEAST = {"qdrant": LEAST_QDRANT, "elasticsearch": LEAST_ELASTICSEARCH, "milvus": LEAST_MILVUS}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "stores.yaml").read_text("utf-8"))["services"]
    return found


def test_every_image_is_pinned_to_a_version_that_its_store_works_with(services: dict[str, Any]) -> None:
    assert services.keys() == LEAST.keys()
    for name, service in services.items():
        image, _, tag = service["image"].partition(":")
        numbers = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", tag)
        assert image.endswith(name)
        assert numbers, tag
        assert tuple(map(int, numbers.groups())) >= LEAST[name]
    assert services["elasticsearch"]["image"] == f"elasticsearch:{VERSION}"  # the one that the tests run


def test_every_server_is_checked_for_health_and_open_to_this_machine_only(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert service["healthcheck"]["retries"] >= 24
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_secrets_come_from_a_file_that_is_not_ours(services: dict[str, Any]) -> None:
    text = "".join((FOLDER / name).read_text("utf-8") for name in ("stores.yaml", "system.yaml"))
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    example = (FOLDER / "example.env").read_text("utf-8")
    assert wanted == set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) != set()
    # What the shell in a container is to expand must not be expanded by compose.
    assert not re.search(r"(?<!\$)\$(?![\${])", text)


def test_files_that_are_mounted_are_there(services: dict[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in service["volumes"] if mount.startswith("./")]
    assert len(mounts) == 2
    for mount in mounts:
        assert isinstance(yaml.safe_load((FOLDER / mount.split(":")[0]).read_text("utf-8")), dict)


def test_the_configuration_in_the_readme_is_one(tmp_path: Path) -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    tables = "\n".join(line.strip() for line in readme.splitlines() if re.match(r'    (\[stores|\w+ = ["\[tf])', line))
    assert len(tomllib.loads(tables)["stores"]) == 3
    file = tmp_path / "m3.toml"
    file.write_text(f'[collection]\nname = "notes"\n[sources.docs]\nkind = "folder"\npath = "docs"\n{tables}\n')
    check_stores(load_config(file, {}).config.stores)
