"""What changes an encoder's identity, and what must not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m3core.checkpoint import read_spec
from m3core.fingerprint import collection_fingerprint, encoder_fingerprint


def _fingerprint(folder: Path, tmp_path: Path) -> str:
    return encoder_fingerprint(read_spec(folder), tmp_path / "hashes.json")


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_path_card_and_presets_do_not_count(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("a card")
    (folder / "m3.json").write_text(
        json.dumps({"multi_dim": 8, "presets": {"x": {"dense": 1, "lexical": 1, "multi": 1}}})
    )
    assert _fingerprint(folder, tmp_path) == _fingerprint(tiny_model, tmp_path)
    assert _fingerprint(folder, tmp_path).startswith("float-")


def _other_head(folder: Path) -> None:
    torch.save({"weight": torch.ones(1, 32), "bias": torch.ones(1)}, folder / "sparse_linear.pt")


def _other_prefix(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "q: "}}))


def _other_pooling(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))


def _other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + " ")


@pytest.mark.parametrize("change", [_other_head, _other_prefix, _other_pooling, _other_tokenizer])
def test_whatever_affects_vectors_counts(
    change: Callable[[Path], None], tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    change(folder)
    assert _fingerprint(folder, tmp_path) != _fingerprint(tiny_model, tmp_path)


def test_file_hashes_are_remembered_and_a_damaged_memory_is_made_again(folder: Path, tmp_path: Path) -> None:
    spec, cache = read_spec(folder), tmp_path / "hashes.json"
    first = encoder_fingerprint(spec, cache)
    remembered = json.loads(cache.read_text())
    assert len(remembered) == 4
    cache.write_text(json.dumps(dict.fromkeys(remembered, "0" * 64)))
    assert encoder_fingerprint(spec, cache) != first, "the memory is used while size, mtime and inode stay"
    cache.write_text("{damaged")
    assert encoder_fingerprint(spec, cache) == first


def test_many_may_remember_at_once(tiny_model: Path, tmp_path: Path) -> None:
    spec, cache = read_spec(tiny_model), tmp_path / "hashes.json"

    def one(turn: int) -> str:
        cache.unlink(missing_ok=True)
        return encoder_fingerprint(spec, cache)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(one, range(200)))) == 1
    assert [path for path in tmp_path.iterdir() if path != cache] == []


def test_the_limit_counts(folder: Path, tmp_path: Path) -> None:
    spec = read_spec(folder)
    shorter = replace(spec, max_length=100)
    assert encoder_fingerprint(shorter, tmp_path / "a.json") != encoder_fingerprint(spec, tmp_path / "a.json")


def test_collection_fingerprint_covers_encoder_and_settings() -> None:
    golden = collection_fingerprint("float-00", {"chunker": "1", "fields": {"year": "integer"}})
    assert golden == "33188bd5f4094de039479df762f91ea9"
    assert golden == collection_fingerprint("float-00", {"fields": {"year": "integer"}, "chunker": "1"})
    assert golden != collection_fingerprint("float-01", {"chunker": "1", "fields": {"year": "integer"}})
    assert golden != collection_fingerprint("float-00", {"chunker": "2", "fields": {"year": "integer"}})
