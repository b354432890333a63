"""Which generation a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3core.errors import ModelError, RefusedError
from m3core.types import Signal
from pipelines.ingest.generation import Build, begin, bindings, check_fits, current, finish
from pipelines.state.collection import read_collection
from pipelines.state.lease import acquire_lease
from pipelines.state.stores import schema_of
from tests.pipelines.ingest.projects import EDGE_AND_MEMORY, Project
from tests.tiny import make_tiny_model


def test_the_first_run_makes_generation_one_and_later_ones_keep_it(project: Project) -> None:
    build = Build.of(project.config, project.base)
    with acquire_lease(project.paths) as lease:
        state, made = begin(project.paths, lease, build, project.config)
        assert (state.run, state.live, made.number, made.status) == (1, None, 1, "building")
        assert (made.dense_dim, made.multi_dim, made.encoder_fingerprint) == (32, 8, build.encoder)
        state, again = begin(project.paths, lease, build, project.config)
        assert (state.run, again) == (2, made)
        finish(project.paths, state, again, whole=True)
    written = read_collection(project.paths)
    assert written is not None
    live = current(written)
    assert live is not None
    assert (written.live, live.status, live.applied_run) == (1, "live", 2)


def test_a_run_that_left_something_out_does_not_count_as_applied(project: Project) -> None:
    build = Build.of(project.config, project.base)
    with acquire_lease(project.paths) as lease:
        state, made = begin(project.paths, lease, build, project.config)
        finish(project.paths, state, made, whole=False)
    written = read_collection(project.paths)
    assert written is not None
    assert (written.live, written.generations[0].applied_run) == (1, 0)


def test_what_shapes_rows_shapes_the_fingerprint(project: Project) -> None:
    def fingerprint() -> str:
        return Build.of(project.config, project.base).collection

    first = fingerprint()
    assert fingerprint() == first
    project.settings["ingest"] = {"wave_bytes": 1 << 20}
    project.settings["stores"] = EDGE_AND_MEMORY
    assert fingerprint() == first
    project.settings["chunking"] = {"max_tokens": 64}
    second = fingerprint()
    project.settings["fields"] = {"year": "integer"}
    assert len({first, second, fingerprint()}) == 3


def test_another_model_is_named_in_the_refusal(project: Project, tmp_path: Path) -> None:
    build = Build.of(project.config, project.base)
    with acquire_lease(project.paths) as lease:
        _, made = begin(project.paths, lease, build, project.config)
    project.model = make_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(RefusedError, match=r"the model .* was float-") as caught:
        check_fits(made, Build.of(project.config, project.base), project.config)
    assert "never mix" in caught.value.remedy


def test_a_model_that_is_not_there_is_an_error(project: Project) -> None:
    project.settings["model"] = {"name": "nowhere"}
    with pytest.raises(ModelError):
        Build.of(project.config, project.base)


def test_a_store_learns_what_it_keeps(project: Project) -> None:
    project.settings["stores"] = EDGE_AND_MEMORY
    project.settings["fields"] = {"year": "integer"}
    build = Build.of(project.config, project.base)
    with acquire_lease(project.paths) as lease:
        _, made = begin(project.paths, lease, build, project.config)
    main, rerank = (schema_of(made, binding, "notes") for binding in bindings(project.config))
    assert main.physical_name == "m3_notes_g00001"
    assert (main.signals, main.keeps_text) == (frozenset({Signal.DENSE, Signal.LEXICAL}), True)
    assert (rerank.signals, rerank.keeps_text) == (frozenset({Signal.MULTI}), False)
    assert main.fields == {"year": "integer"}
