from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from m3core import Encoder, precision
from m3core.errors import UsageError
from m3core.precision import Execution, choose_execution, fastest_on_cpu


def test_auto_on_a_cpu_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 3.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_seconds", seconds.__getitem__)
    fastest_on_cpu.cache_clear()
    assert choose_execution("cpu") == Execution("cpu", "bfloat16")
    seconds[torch.bfloat16] = 2.5
    fastest_on_cpu.cache_clear()
    assert choose_execution("cpu") == Execution("cpu", "float32")
    fastest_on_cpu.cache_clear()


def test_the_measurement_takes_real_time() -> None:
    assert 0 < precision._seconds(torch.float32) < 5


@pytest.mark.parametrize(
    ("device", "chosen", "message"),
    [
        ("tpu", "auto", "device 'tpu' is none of auto, cpu, cuda, cuda:N"),
        ("cpu", "int4", "precision 'int4' is none of auto, float32, bfloat16, float16"),
        ("cpu", "float16", "precision float16 on a CPU is slow and overflows"),
    ],
)
def test_what_cannot_be_done_is_refused(device: str, chosen: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_execution(device, chosen)
    assert message in caught.value.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="torch finds no CUDA device here"):
        choose_execution("cuda:1", "float16")


def test_compiled_products_are_bounded_unless_the_environment_says_how_many(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it does to a long run: tests/bench/encode_memory.py.
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    Encoder.load(tiny_model, precision="float32")
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
    Encoder.load(tiny_model, precision="float32")
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "8"


def test_bfloat16_stays_close_and_gives_float32_arrays(tiny_model: Path) -> None:
    texts = ["the key is at the front desk", "Wer den Schlüssel verliert", "x"]
    exact = Encoder.load(tiny_model, precision="float32").encode(texts)
    encoder = Encoder.load(tiny_model, precision="bfloat16")
    short = encoder.encode(texts)
    assert encoder.backbone.words.dtype == torch.bfloat16
    assert exact.dense is not None
    assert short.dense is not None
    assert short.dense.dtype == np.float32
    assert (exact.dense * short.dense).sum(axis=1).min() > 0.999
    assert encoder.fingerprint == Encoder.load(tiny_model, precision="float32").fingerprint


@pytest.mark.slow
def test_m3_small_in_bfloat16_keeps_its_dense_vectors(m3_small: Path) -> None:
    texts = [
        "Wie hoch ist der Eiffelturm?",
        "The night train leaves from platform nine at half past ten.",
        "低温実験室の鍵は受付にあります。",
        "كم جهازًا يستطيع ضيفي أن يصل بالشبكة؟ " * 8,
    ]
    exact = Encoder.load(m3_small, device="cpu", precision="float32").encode(texts)
    short = Encoder.load(m3_small, device="cpu", precision="bfloat16").encode(texts)
    assert exact.dense is not None
    assert short.dense is not None
    assert (exact.dense * short.dense).sum(axis=1).min() >= 0.9995
