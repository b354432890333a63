"""What an inspection finds, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, processors

from m3core import Encoder
from m3core.checkpoint import read_spec
from m3core.errors import ModelError
from m3core.fingerprint import encoder_fingerprint
from m3core.inspection import HeadShape, Inspection, inspect_model
from m3core.types import Signal
from m3core.weights import read_weights
from tests.tiny import make_tiny_model


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def inspect(folder: Path) -> Inspection:
    return inspect_model(read_spec(folder))


def test_a_whole_model(tiny_model: Path) -> None:
    spec = read_spec(tiny_model)
    found = inspect_model(spec)
    assert found.heads == {Signal.LEXICAL: HeadShape(32, 1), Signal.MULTI: HeadShape(32, 8)}
    assert found.weights == read_weights(spec)
    assert found.parameters == found.weights.parameters + 33 + 33 * 8
    assert found.tokenizer_ids == spec.architecture.vocabulary
    assert found.fingerprint == encoder_fingerprint(spec)


def test_missing_heads_are_no_error(folder: Path) -> None:
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (folder / name).unlink()
    found = inspect(folder)
    assert found.heads == {Signal.LEXICAL: None, Signal.MULTI: None}
    assert found.parameters == found.weights.parameters


def test_a_head_of_another_shape_is_one(folder: Path) -> None:
    torch.save({"weight": torch.ones(2, 32), "bias": torch.ones(2)}, folder / "sparse_linear.pt")
    with pytest.raises(ModelError, match=r"sparse_linear.pt: weight is \[2, 32\]; this backbone needs \[1, 32\]"):
        inspect(folder)


def test_a_tokenizer_of_another_vocabulary_is_one(folder: Path) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["model"]["vocab"]["zzzz"] = len(value["model"]["vocab"])
    path.write_text(json.dumps(value), encoding="utf-8")
    ids = read_spec(folder).architecture.vocabulary
    with pytest.raises(ModelError, match=f"the tokenizer has {ids + 1} ids, the backbone only {ids}"):
        inspect(folder)
    with pytest.raises(ModelError, match=f"the tokenizer has {ids + 1} ids, the backbone only {ids}"):
        Encoder.load(folder)
    path.unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json is missing"):
        inspect(folder)


def bert_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer with the special ids of every published BERT, small enough for any backbone."""
    tokens = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "key"]
    model = models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("told", [True, False])
def test_a_bert_tokenizer_with_an_xlm_roberta_is_refused(tmp_path: Path, told: bool) -> None:
    folder = make_tiny_model(tmp_path / "xlmr", family="xlm-roberta")
    bert_tokenizer(folder)
    if not told:
        rewrite_config(folder, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    message = "the tokenizer's cls token has id 101, config.json says 0"
    with pytest.raises(ModelError, match=message) as raised:
        inspect(folder)
    assert raised.value.remedy == "use the tokenizer.json that belongs to the model"
    with pytest.raises(ModelError, match=message):
        Encoder.load(folder)


@pytest.mark.parametrize("role", ["eos", "pad"])
def test_every_special_token_that_positions_or_ends_a_text_is_compared(tmp_path: Path, role: str) -> None:
    folder = make_tiny_model(tmp_path / "xlmr", family="xlm-roberta")
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    token = {"eos": "</s>", "pad": "<pad>"}[role]
    value = json.loads(text.replace(f'"{token}"', '"<moved>"'))
    vocabulary = value["model"]["vocab"]
    word = next(word for word, place in vocabulary.items() if place == 30)
    vocabulary[token] = vocabulary.pop(word)
    value["model"]["merges"] = []
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ModelError, match=f"the tokenizer's {role} token has id 30, config.json says"):
        inspect(folder)


def test_a_bert_may_leave_its_special_tokens_untold_or_keep_berts_own_padding(folder: Path) -> None:
    rewrite_config(folder, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    assert inspect(folder).tokenizer_ids == read_spec(folder).architecture.vocabulary
    rewrite_config(folder, sep_token_id=3)
    with pytest.raises(ModelError, match=r"the tokenizer's eos token has id 2, config.json says 3"):
        inspect(folder)


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("xlm-roberta", {"pad_token_id": 0}, "pad_token_id is 0; a backbone of type xlm-roberta pads with 1"),
        ("bert", {"bos_token_id": "zero"}, "bos_token_id is 'zero'; it must be a whole number"),
    ],
)
def test_special_ids_that_cannot_be(tmp_path: Path, family: str, changed: dict[str, object], message: str) -> None:
    folder = make_tiny_model(tmp_path / "model", family=family)
    rewrite_config(folder, **changed)
    with pytest.raises(ModelError, match=message):
        read_spec(folder)


def rewrite_config(folder: Path, **changed: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
