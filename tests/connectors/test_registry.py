"""Store kinds by name."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.protocol import Connection, EmbeddedSink, Searcher, Sink, StoreOptions
from connectors.registry import is_embedded, kinds, open_searcher, open_sink, signals_of
from m3core.errors import ConfigError, MissingExtraError, StoreError
from m3core.types import Signal
from tests.conformance.data import SCHEMA


def options(tmp_path: Path, kind: str = "memory") -> StoreOptions:
    schema = replace(SCHEMA, signals=frozenset(signals_of(kind)))
    return StoreOptions("main", tmp_path / "main", schema, connection=Connection("http://127.0.0.1:9"))


def test_kinds_are_what_the_configuration_may_name() -> None:
    assert kinds() == ("elasticsearch", "memory", "milvus", "milvus-lite", "qdrant", "qdrant-edge")
    assert not is_embedded("memory")
    assert is_embedded("qdrant-edge")
    assert not is_embedded("elasticsearch")
    assert not is_embedded("qdrant")
    assert is_embedded("milvus-lite")
    assert not is_embedded("milvus")
    assert signals_of("elasticsearch") == (Signal.LEXICAL,)
    assert signals_of("memory") == tuple(Signal)


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_opens_both_sides(kind: str, tmp_path: Path) -> None:
    opened = options(tmp_path, kind)
    sink, searcher = open_sink(kind, opened), open_searcher(kind, opened)
    assert isinstance(sink, Sink)
    assert isinstance(searcher, Searcher)
    assert isinstance(sink, EmbeddedSink) == is_embedded(kind) == sink.capabilities.embedded
    assert sink.capabilities == searcher.capabilities
    assert sink.capabilities.signals == set(signals_of(kind))
    sink.close()
    sink.close()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("qdrant_edge", 'did you mean "qdrant-edge"?'),
        ("Memory", 'did you mean "memory"?'),
        ("solr", "use one of elasticsearch, memory, milvus, milvus-lite, qdrant, qdrant-edge"),
    ],
)
def test_an_unknown_kind_names_the_nearest(name: str, remedy: str, tmp_path: Path) -> None:
    for opened in (open_sink, open_searcher):
        with pytest.raises(ConfigError) as caught:
            opened(name, options(tmp_path))
        assert (caught.value.message, caught.value.remedy) == (f"no store is of kind {name!r}", remedy)


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        ("qdrant", "qdrant_client", "qdrant-server"),
        ("qdrant-edge", "qdrant_edge", "qdrant"),
        ("elasticsearch", "elasticsearch", "elasticsearch"),
        ("milvus", "pymilvus", "milvus"),
        ("milvus-lite", "milvus_lite", "milvus-lite"),
    ],
)
def test_a_missing_extra_names_the_install_command(
    kind: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        open_sink(kind, options(tmp_path))
    assert caught.value.remedy == f"pip install 'threefold[{extra}]'"
    assert module in caught.value.message


def test_the_registry_imports_no_store() -> None:
    heavy = ("qdrant", "elastic", "pymilvus", "milvus_lite", "pandas", "connectors.")
    code = f"import sys, connectors.registry; print([name for name in sys.modules if name.startswith({heavy})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known = {"connectors.registry", "connectors.protocol", "connectors.filters", "connectors.filters.tree"}
    assert set(ast.literal_eval(done.stdout)) == known


def test_a_memory_store_of_another_process_is_an_error_that_says_so(tmp_path: Path) -> None:
    sink = open_sink("memory", options(tmp_path))
    with pytest.raises(StoreError, match="no m3_docs_g00001 in this process") as caught:
        sink.count()
    assert caught.value.remedy == 'a memory store is gone when its process ends; use kind = "qdrant-edge" to keep rows'
