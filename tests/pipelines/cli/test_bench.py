from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli.main import main


def test_bench_encode_measures_all_signals_against_the_backbone(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "encode", "--model", str(tiny_model), "--texts", "150", "--rounds", "1", "--json"]
    assert main([*arguments, "--precision", "float32", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    # 120 documents in the sample: the first 30 come twice.
    assert figures["texts"] == 150
    assert (figures["device"], figures["precision"]) == ("cpu", "float32")
    assert figures["tokens_per_second"] == pytest.approx(figures["tokens"] / figures["seconds"], rel=0.01)
    assert 0 < figures["backbone_share"] < 1.5
    assert 0 <= figures["padding"] < 1
    assert any(name.startswith("peak_") and value > 1 << 20 for name, value in figures.items())


def test_bench_encode_reads_a_file_and_says_what_it_found(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(f'{{"id": "{i}", "text": "the key {i}"}}\n' for i in range(9)))
    assert main(["bench", "encode", str(source), "--model", str(tiny_model), "--texts", "5", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "  texts          5, " in out
    assert "tokens/s" in out


def test_bench_encode_refuses_an_empty_file_and_an_unknown_precision(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.jsonl").touch()
    assert main(["bench", "encode", str(tmp_path / "none.jsonl"), "--model", str(tiny_model)]) == 2
    assert "none.jsonl holds no texts. Remedy: name a file with some" in capsys.readouterr().err
    assert main(["bench", "encode", "--model", str(tiny_model), "--precision", "int4"]) == 2
    assert "precision 'int4' is none of auto" in capsys.readouterr().err
