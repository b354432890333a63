"""A server's address: read once, the same for every kind of server."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.address import address_of, certificates, place
from connectors.protocol import Connection, StoreOptions
from m3core.errors import ConfigError
from tests.conformance.data import SCHEMA

PORTS = {"http": 6333, "https": 443}


def options(**settings: str) -> StoreOptions:
    return StoreOptions("text", Path("unused"), SCHEMA, connection=Connection(**settings))


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://127.0.0.1", "http://127.0.0.1:6333"),
        ("https://search.example.org", "https://search.example.org:443"),
        ("https://search.example.org:9200/es", "https://search.example.org:9200/es"),
        ("http://[::1]:9", "http://[::1]:9"),
        ("http://[::1]", "http://[::1]:6333"),
    ],
)
def test_what_an_address_leaves_out_is_filled_in(url: str, whole: str) -> None:
    assert address_of(options(url=url), PORTS).url == whole


@pytest.mark.parametrize("url", ["", "ftp://a", "search:9200", "http://", "http://m3:canary@a", "http://m3@a"])
def test_what_is_no_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^stores\.text\.url is not http\(s\)://HOST:PORT") as caught:
        address_of(options(url=url), PORTS)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("secret", [{"api_key": "env:KEY"}, {"username": "m3", "password": "env:KEY"}])
def test_a_secret_leaves_this_machine_over_https_only(secret: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="would send a secret over http"):
        address_of(options(url="http://10.0.0.1:9200", **secret), PORTS)
    for url in ("http://localhost:1", "http://127.9.9.9:1", "http://[::1]:1", "https://10.0.0.1:9200"):
        assert address_of(options(url=url, **secret), PORTS).secure == url.startswith("https")


def test_the_file_of_certificates_is_there_or_named(tmp_path: Path) -> None:
    assert certificates(options()) == ""
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"stores\.text\.ca: there is no file"):
        certificates(options(ca=str(file)))
    file.touch()
    assert certificates(options(ca=str(file))) == str(file)


def test_a_place_is_host_and_port() -> None:
    assert place(options(url="https://search.example.org:9200/es")) == "search.example.org:9200"
