"""Which generation a run writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m3core.errors import ModelError, RefusedError
from m3core.types import Signal
from pipelines.ingest.generation import Build, begin, begin_build, bindings, check_builds, check_fits, current, finish
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
    assert caught.value.remedy.endswith("m3 generations build")


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


def test_a_build_takes_the_next_number_and_goes_on_with_its_own(project: Project) -> None:
    first = Build.of(project.config, project.base)
    with acquire_lease(project.paths) as lease:
        state, made = begin(project.paths, lease, first, project.config)
        finish(project.paths, state, made, whole=True)
        project.settings["chunking"] = {"max_tokens": 64}
        second = Build.of(project.config, project.base)
        check_builds(read_collection(project.paths), second, project.config)
        state, built = begin_build(project.paths, lease, second, project.config)
        assert (built.number, built.status, built.collection_fingerprint) == (2, "building", second.collection)
        finish(project.paths, state, built, whole=False)
        state, again = begin_build(project.paths, lease, second, project.config)
        assert (state.live, again.number, again.applied_run) == (1, 2, 0)
        finish(project.paths, state, again, whole=True)
        written = read_collection(project.paths)
        assert written is not None
        assert [(each.status, each.applied_run) for each in written.generations] == [("live", 1), ("building", 3)]
        project.settings["chunking"] = {"max_tokens": 80}
        _, third = begin_build(project.paths, lease, Build.of(project.config, project.base), project.config)
    assert third.number == 3


def test_what_is_live_or_retained_is_not_built(project: Project) -> None:
    build = Build.of(project.config, project.base)
    with acquire_lease(project.paths) as lease:
        state, made = begin(project.paths, lease, build, project.config)
        check_builds(state, build, project.config)
        finish(project.paths, state, made, whole=True)
        state = read_collection(project.paths)
        assert state is not None
        with pytest.raises(RefusedError, match="describes generation 1 of collection 'notes', which is live"):
            check_builds(state, build, project.config)
        retained = replace(state.generations[0], status="retired")
        with pytest.raises(RefusedError, match="which is retired") as caught:
            check_builds(replace(state, live=None, generations=(retained,)), build, project.config)
    assert caught.value.remedy == "m3 generations rollback, or m3 generations drop 1 and build it anew"
