"""What is read from a model folder, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m3core.checkpoint import model_spec, read_spec
from m3core.errors import ModelError
from m3core.fusion import Weights
from tests.tiny import make_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model")


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_settings_of_a_folder(folder: Path) -> None:
    spec = read_spec(folder)
    assert (spec.dense_dim, spec.multi_dim, spec.max_length, spec.pooling) == (32, 8, 256, "mean")
    assert (spec.query_prefix, spec.passage_prefix) == ("query: ", "passage: ")


def test_xlm_roberta_positions_start_at_two(tmp_path: Path) -> None:
    spec = read_spec(make_tiny_model(tmp_path / "xlmr", family="xlm-roberta"))
    assert (spec.architecture.position_offset, spec.architecture.positions, spec.max_length) == (2, 258, 256)


def test_cls_pooling_and_no_prefix_are_the_defaults(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "config_sentence_transformers.json").unlink()
    spec = read_spec(folder)
    assert (spec.pooling, spec.query_prefix) == ("cls", "")


def test_the_width_of_multi_vectors_is_read_from_the_head_if_not_told(folder: Path) -> None:
    (folder / "m3.json").unlink()
    assert read_spec(folder).multi_dim == 8


def test_the_tokenizer_may_lower_the_limit_and_not_raise_it(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    assert read_spec(folder).max_length == 64
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    assert read_spec(folder).max_length == 256


def test_presets_of_the_model_join_the_built_in_ones(folder: Path) -> None:
    _edit(folder / "m3.json", presets={"legal": {"dense": 1, "lexical": 2, "multi": 3}})
    presets = read_spec(folder).presets
    assert presets["legal"] == Weights(1, 2, 3)
    assert "balanced" in presets


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "gpt2"}, "model_type 'gpt2' is not known"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("config.json", {"hidden_size": None}, "config.json: TypeError"),
        ("config.json", {"num_attention_heads": 5}, "32 units do not divide by 5 heads"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "known are cls and mean, one of them"),
        ("m3.json", {"presets": {"x": {"dense": 1}}}, "preset 'x' needs dense, lexical and multi"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompt 'query' is not a text"),
    ],
)
def test_malformed_settings_are_refused(folder: Path, file: str, changes: dict[str, Any], message: str) -> None:
    _edit(folder / file, **changes)
    with pytest.raises(ModelError, match=message):
        read_spec(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config.json is missing"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        read_spec(tmp_path)
    with pytest.raises(ModelError, match="is not there"):
        read_spec(tmp_path / "absent")


def test_a_query_is_read_up_to_512_tokens_and_a_passage_up_to_the_models_limit(
    tmp_path: Path, tiny_model: Path
) -> None:
    long = read_spec(make_tiny_model(tmp_path / "long", family="xlm-roberta", max_length=1024))
    assert (long.limit("query"), long.limit("passage")) == (512, 1024)
    short = read_spec(tiny_model)
    assert (short.limit("query"), short.limit("passage")) == (256, 256)


def test_a_model_by_its_name_is_found_from_the_base_and_keeps_the_name(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "models" / "here", pooling="cls")
    spec = model_spec("models/here", base=tmp_path, long_pooling="mcls")
    assert (spec.name, spec.folder, spec.pooling) == ("models/here", tmp_path / "models" / "here", "mcls")
    with pytest.raises(ModelError, match="hub model models/there with revision None"):
        model_spec("models/there", base=tmp_path)
