"""`m3 models inspect` and `m3 models convert`: what they say, write and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from m3core.checkpoint import read_spec
from m3core.fingerprint import encoder_fingerprint
from pipelines.cli.look import copyable
from tests.pipelines.cli.broken import BROKEN, ran
from tests.pipelines.cli.conftest import M3


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def test_an_inspection_for_people(m3: M3, folder: Path) -> None:
    spec = read_spec(folder)
    ids = spec.architecture.vocabulary
    size = (folder / "model.safetensors").stat().st_size / 1e6
    parameters = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values()) + 33 + 33 * 8
    ended = m3("models", "inspect", folder)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        str(folder),
        f"  folder          {copyable(folder)}",
        "  backbone        bert, 2 layers, 32 hidden, 4 heads, 64 FFN",
        f"  vocabulary      {ids:,} ids, {ids:,} of them in the tokenizer",
        "  limit           256 tokens, 256 positions",
        "  pooling         mean",
        '  query prefix    "query: "',
        '  passage prefix  "passage: "',
        "  dense           32 wide",
        "  lexical         one weight a token (sparse_linear.pt)",
        "  multi           8 wide, one vector a token (colbert_linear.pt)",
        f"  weights         model.safetensors, {size:.1f} MB, float32, 37 tensors",
        f"  parameters      {parameters:,}",
        "  presets         balanced: dense 0.4, lexical 0.2, multi 0.4",
        "                  long-documents: dense 0.15, lexical 0.5, multi 0.35",
        "                  cross-lingual: dense 1, lexical 0.05, multi 1",
        "                  dense-only: dense 1, lexical 0, multi 0",
        f"  fingerprint     {encoder_fingerprint(spec)}",
    ]


def test_an_inspection_as_json(m3: M3, folder: Path) -> None:
    (folder / "sparse_linear.pt").unlink()
    ended = m3("models", "inspect", folder, "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    spec = read_spec(folder)
    stored = load_file(folder / "model.safetensors")
    assert found.pop("presets").keys() == {"balanced", "long-documents", "cross-lingual", "dense-only"}
    assert found == {
        "schema_version": 1,
        "model": str(folder),
        "folder": str(folder),
        "architecture": {
            "family": "bert",
            "hidden": 32,
            "layers": 2,
            "heads": 4,
            "ffn": 64,
            "vocabulary": spec.architecture.vocabulary,
            "positions": 256,
            "layer_norm_eps": 1e-5,
            "tokenizer_ids": spec.architecture.vocabulary,
        },
        "limit": 256,
        "pooling": "mean",
        "prefixes": {"query": "query: ", "passage": "passage: "},
        "dense": {"width": 32},
        "lexical": {"file": "sparse_linear.pt", "present": False},
        "multi": {"file": "colbert_linear.pt", "present": True, "width": 8, "inputs": 32},
        "weights": {
            "file": "model.safetensors",
            "bytes": (folder / "model.safetensors").stat().st_size,
            "dtypes": ["float32"],
            "tensors": 37,
            "unused_tensors": [],
        },
        "parameters": sum(tensor.numel() for tensor in stored.values()) + 33 * 8,
        "fingerprint": encoder_fingerprint(spec),
    }


def test_missing_heads_are_told_by_inspect_and_refused_by_the_others(m3: M3, folder: Path, tmp_path: Path) -> None:
    (folder / "colbert_linear.pt").unlink()
    ended = m3("models", "inspect", folder)
    assert ended.code == 0
    assert "  multi           missing: without colbert_linear.pt the model cannot give multi-vectors\n" in ended.out
    line = (
        f"m3: model: {folder}: colbert_linear.pt is missing, so the model cannot give multi-vectors. "
        "Remedy: use a model with M3 heads, or ask for the dense signal only\n"
    )
    ended = m3("models", "convert", folder, tmp_path / "new")
    assert (ended.code, ended.out, ended.err) == (2, "", line)
    ended = m3("encode", "--model", folder, "--text", "key")
    assert (ended.code, ended.out, ended.err) == (2, "", line)
    assert m3("encode", "--model", folder, "--text", "key", "--signals", "dense,lexical").code == 0


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_line_whatever_the_command(m3: M3, folder: Path, tmp_path: Path, name: str) -> None:
    break_it, file, message = BROKEN[name]
    break_it(folder)
    target = tmp_path / "new"
    commands = (
        ("models", "inspect", folder),
        ("models", "convert", folder, target),
        ("encode", "--model", folder, "--text", "key", "--output", target),
    )
    for command in commands:
        ended = m3(*command)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.err.startswith(f"m3: model: {folder / file if file else folder}")
        assert message in ended.err
        assert ". Remedy: " in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]
    assert not ran(folder)
    ended = m3("models", "inspect", folder, "--json")
    assert (ended.code, ended.err, json.loads(ended.out)["error"]["code"]) == (2, "", "model")


@pytest.mark.parametrize("command", [["models", "inspect", "MODEL"], ["models", "convert", "MODEL", "new"]])
@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("no-such-model", None, "model 'no-such-model' is neither m3-small nor a folder"),
        ("BAAI/bge-m3", None, "a hub id needs the 40 hex digits of a commit"),
        ("BAAI/bge-m3", "main", "a hub id needs the 40 hex digits of a commit"),
        ("m3-small", None, "model m3-small is not in"),
    ],
)
def test_a_model_that_is_not_there(
    m3: M3, here: Path, command: list[str], model: str, revision: str | None, message: str
) -> None:
    arguments = [model if part == "MODEL" else part for part in command]
    ended = m3(*arguments, *(["--revision", revision] if revision else []))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("m3: model: ")
    assert message in ended.err
    assert list(here.iterdir()) == []


def test_a_conversion_says_what_became_of_what(m3: M3, folder: Path, here: Path) -> None:
    before = encoder_fingerprint(read_spec(folder))
    ended = m3("models", "convert", folder, "half", "--dtype", "float16")
    assert (ended.code, ended.err) == (0, "")
    after = encoder_fingerprint(read_spec(here / "half"))
    sizes = [(path / "model.safetensors").stat().st_size / 1e6 for path in (here / "half", folder)]
    assert ended.out.splitlines() == [
        "wrote half; it was loaded once to check it",
        f"  weights      model.safetensors, {sizes[0]:.1f} MB, float16, 37 tensors",
        f"  before       model.safetensors, {sizes[1]:.1f} MB, float32, 37 tensors",
        f"  fingerprint  {after}",
        f"  before       {before}",
        "Another fingerprint is another model: a collection made with one takes no vectors of the other.",
    ]
    assert before != after
    assert m3("models", "inspect", "half").code == 0
    ended = m3("models", "convert", folder, "half")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "m3: usage: half is there already, a folder with files in it. Remedy: name a folder that is new or empty\n"
    )


def test_an_unknown_dtype_is_refused(m3: M3, folder: Path) -> None:
    ended = m3("models", "convert", folder, "new", "--dtype", "int8")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "m3: usage: m3 models convert: --dtype 'int8' is none of float32, float16, bfloat16. "
        "Remedy: m3 models convert --help\n"
    )
