"""Store kinds by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.protocol import EmbeddedSink, Searcher, Sink, StoreOptions
from connectors.registry import is_embedded, kinds, open_searcher, open_sink
from m3core.errors import ConfigError, MissingExtraError, StoreError
from tests.conformance.data import SCHEMA


def options(tmp_path: Path) -> StoreOptions:
    return StoreOptions("main", tmp_path / "main", SCHEMA)


def test_kinds_are_what_the_configuration_may_name() -> None:
    assert kinds() == ("memory", "qdrant-edge")
    assert not is_embedded("memory")
    assert is_embedded("qdrant-edge")


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_opens_both_sides(kind: str, tmp_path: Path) -> None:
    sink, searcher = open_sink(kind, options(tmp_path)), open_searcher(kind, options(tmp_path))
    assert isinstance(sink, Sink)
    assert isinstance(searcher, Searcher)
    assert isinstance(sink, EmbeddedSink) == is_embedded(kind) == sink.capabilities.embedded
    assert sink.capabilities == searcher.capabilities
    sink.close()
    sink.close()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("qdrant_edge", 'did you mean "qdrant-edge"?'),
        ("Memory", 'did you mean "memory"?'),
        ("solr", "use one of memory, qdrant-edge"),
    ],
)
def test_an_unknown_kind_names_the_nearest(name: str, remedy: str, tmp_path: Path) -> None:
    for opened in (open_sink, open_searcher):
        with pytest.raises(ConfigError) as caught:
            opened(name, options(tmp_path))
        assert (caught.value.message, caught.value.remedy) == (f"no store is of kind {name!r}", remedy)


def test_a_missing_extra_names_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        open_sink("qdrant-edge", options(tmp_path))
    assert caught.value.remedy == "pip install 'threefold[qdrant]'"
    assert "qdrant_edge" in caught.value.message


def test_the_registry_imports_no_store() -> None:
    code = (
        "import sys, connectors.registry; print([name for name in sys.modules if 'qdrant' in name or 'memory' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_memory_store_of_another_process_is_an_error_that_says_so(tmp_path: Path) -> None:
    sink = open_sink("memory", options(tmp_path))
    with pytest.raises(StoreError, match="no m3_docs_g00001 in this process") as caught:
        sink.count()
    assert caught.value.remedy == 'a memory store is gone when its process ends; use kind = "qdrant-edge" to keep rows'
