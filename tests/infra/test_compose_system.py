"""The compose file of the whole system: what compose itself makes of it, and that its parts fit each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from connectors.connection import check_stores
from m3core.config.load import load_config
from tests.infra.dockerfile import read_dockerfile
from tests.infra.places import INFRA, ROOT
from tests.infra.tools import check

FOLDER = INFRA / "compose"
OURS = ["ingest", "serve"]


@pytest.fixture(scope="module")
def system() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "system.yaml").read_text("utf-8"))
    return found


def test_it_adds_to_the_stores_and_repeats_nothing(system: dict[str, Any]) -> None:
    stores = yaml.safe_load((FOLDER / "stores.yaml").read_text("utf-8"))
    assert system["include"] == ["stores.yaml"]
    assert list(system["services"]) == OURS
    for name in OURS:
        assert system["services"][name]["depends_on"].keys() == stores["services"].keys()


def test_images_are_targets_of_our_dockerfile_of_this_version(system: dict[str, Any]) -> None:
    for name in OURS:
        service = system["services"][name]
        build = service["build"]
        assert service["image"] == f"threefold/{name}:0.1.0"
        assert build["target"] in read_dockerfile(ROOT / build["dockerfile"]).stages
        assert (FOLDER / build["context"]).resolve() == ROOT


def test_containers_of_ours_have_no_rights_and_write_to_volumes_only(system: dict[str, Any]) -> None:
    for name in OURS:
        service = system["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_the_configuration_is_one_whose_addresses_the_stores_have(system: dict[str, Any]) -> None:
    config = load_config(FOLDER / "m3.toml", {}).config
    check_stores(config.stores)
    stores = yaml.safe_load((FOLDER / "stores.yaml").read_text("utf-8"))["services"]
    published = {port.rpartition(":")[0] for service in stores.values() for port in service["ports"]}
    assert {store.url.removeprefix("http://") for store in config.stores.values()} == published
    references = [secret for store in config.stores.values() for secret in (store.api_key, store.password) if secret]
    given = system["services"]["serve"]["environment"]
    assert {reference.removeprefix("env:") for reference in references} == given.keys()


def test_compose_reads_it() -> None:
    # That each variable is asked for where it is missing: tests/servers/test_compose.py.
    text = check(
        "compose-spec", "--no-interpolation", "--format", "json", "system.yaml", cwd=FOLDER, COMPOSE_PROFILES="*"
    )
    services = json.loads(text)["services"]
    assert services.keys() == {"qdrant", "elasticsearch", "milvus", *OURS}
    assert services["serve"]["build"]["target"] == "serve"
    assert services["serve"]["depends_on"]["milvus"]["condition"] == "service_healthy"
