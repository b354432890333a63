from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3core.config.model import Config
from tests.pipelines.cli.conftest import M3

FILE = """\
[collection]
name = "docs"

[sources.docs]
kind = "folder"
path = "./docs"
acl = ["everyone"]

[fields]
year = "integer"

[search]
limit = 7
"""

SHOWN = """\
collection.name = "docs"                               m3.toml:2
storage.path = "m3-data"                               default
storage.url = ""                                       default
model.name = "m3-small"                                default
model.revision = none                                  default
model.threads = none                                   default
model.device = "auto"                                  default
model.precision = "auto"                               default
model.long_pooling = none                              default
sources.docs.kind = "folder"                           m3.toml:5
sources.docs.path = "docs"                             m3.toml:6
sources.docs.url = ""                                  default
sources.docs.tenant = "default"                        default
sources.docs.allowed_tenants = []                      default
sources.docs.acl = ["everyone"]                        m3.toml:7
sources.docs.language = ""                             default
sources.docs.id_field = "doc_id"                       default
sources.docs.text_field = "text"                       default
sources.docs.max_document_bytes = 10485760             default
sources.docs.max_total_bytes = 1099511627776           default
fields.year = "integer"                                m3.toml:10
chunking.max_tokens = 512                              default
chunking.overlap_tokens = 0                            default
stores.main.kind = "qdrant-edge"                       default
stores.main.signals = ["dense", "lexical", "multi"]    default
stores.main.text = true                                default
stores.main.url = ""                                   default
stores.main.prefix = ""                                default
stores.main.api_key = ""                               default
stores.main.username = ""                              default
stores.main.password = ""                              default
stores.main.ca = ""                                    default
ingest.wave_bytes = 4194304                            default
ingest.max_delete_fraction = 0.05                      default
ingest.batch_tokens = none                             default
ingest.min_free_bytes = 268435456                      default
ingest.metrics_file = ""                               default
runner.kind = "local"                                  default
runner.job_endpoint = ""                               default
runner.flink_rest = ""                                 default
runner.environment = "external"                        default
runner.worker = ""                                     default
runner.parallelism = 1                                 default
runner.worker_processes = 1                            default
runner.deadline = 86400.0                              default
runner.first_sign = 60.0                               default
runner.accelerator = ""                                default
runner.wave_bytes = 2147483648                         default
runner.listing_bytes = 268435456                       default
runner.split_bytes = 4194304                           default
runner.dataflow = none                                 default
search.preset = "cross-lingual"                        environment M3_SEARCH__PRESET
search.limit = 7                                       m3.toml:13
search.candidates = 100                                default
search.rerank_cap = 400                                default
search.timeout = 10.0                                  default
search.tenant = "default"                              default
search.principals = ["everyone"]                       default
serve.oidc = none                                      default
serve.traces = ""                                      default
"""


@pytest.fixture
def written(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (here / "m3.toml").write_text(FILE, encoding="utf-8")
    monkeypatch.setenv("M3_SEARCH__PRESET", "cross-lingual")
    return here


def columns(text: str) -> list[list[str]]:
    return [[line.split("  ", 1)[0], line.rsplit("  ", 1)[-1]] for line in text.splitlines()]


@pytest.mark.usefixtures("written")
def test_show_names_value_and_origin_of_every_key(m3: M3) -> None:
    ended = m3("config", "show")
    assert (ended.code, ended.err) == (0, "")
    assert columns(ended.out) == columns(SHOWN)


@pytest.mark.usefixtures("written")
def test_show_as_json(m3: M3) -> None:
    document = json.loads(m3("config", "show", "--json").out)
    assert document["schema_version"] == 1
    assert document["file"] == "m3.toml"
    assert document["values"]["search.limit"] == {"value": 7, "origin": "m3.toml:13"}
    assert document["values"]["search.preset"]["origin"] == "environment M3_SEARCH__PRESET"
    assert document["values"]["model.revision"] == {"value": None, "origin": "default"}
    assert document["values"]["sources.docs.acl"] == {"value": ["everyone"], "origin": "m3.toml:7"}
    assert len(document["values"]) == len(SHOWN.splitlines())


def test_an_unknown_store_is_refused_with_the_nearest_kind(m3: M3, here: Path) -> None:
    (here / "m3.toml").write_text(FILE + '[stores.main]\nkind = "qdrant_edge"\n', encoding="utf-8")
    ended = m3("config", "show")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        'm3: config: m3.toml:15 stores.main.kind = "qdrant_edge": no such store; did you mean "qdrant-edge"?\n'
    )
    document = json.loads(m3("config", "show", "--json").out)
    assert document["error"] == {
        "code": "config",
        "message": 'm3.toml:15 stores.main.kind = "qdrant_edge": no such store',
        "remedy": 'did you mean "qdrant-edge"?',
    }


def test_the_schema_describes_every_key(m3: M3) -> None:
    ended = m3("config", "schema")
    schema = json.loads(ended.out)
    assert ended.code == 0
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["additionalProperties"] is False
    for name, section in schema["$defs"].items():
        assert section["additionalProperties"] is False, name
        assert all("description" in field for field in section["properties"].values()), name
