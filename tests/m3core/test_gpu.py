"""One GPU per process, copies and streams: what can be said without a GPU, and what is tried where there is one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from m3core.encoder import Encoder
from m3core.errors import UsageError
from m3core.gpu import claimed_gpu, own_stream, to_device, to_host
from m3core.precision import choose_execution
from m3core.types import Float32Array

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine that says it has two, and a folder for its locks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    claimed_gpu.cache_clear()
    yield tmp_path
    claimed_gpu.cache_clear()


def another_process_holds(folder: Path, index: int) -> None:
    file = os.open(folder / f"m3-gpu-{os.getuid()}-{index}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)


def test_processes_take_one_each(two_gpus: Path) -> None:
    another_process_holds(two_gpus, 0)
    assert choose_execution("auto", "float16").device == "cuda:1"
    assert choose_execution("cuda", "float16").device == "cuda:1", "a process keeps what it has claimed"


def test_a_number_that_is_given_is_taken(two_gpus: Path) -> None:
    another_process_holds(two_gpus, 0)
    assert choose_execution("cuda:0", "float16").device == "cuda:0"


def test_more_processes_than_gpus_share_them(two_gpus: Path) -> None:
    for index in range(2):
        another_process_holds(two_gpus, index)
    assert claimed_gpu() in ("cuda:0", "cuda:1")


def test_a_link_in_place_of_the_lock_is_not_followed(two_gpus: Path) -> None:
    theirs = two_gpus / "precious"
    (two_gpus / f"m3-gpu-{os.getuid()}-0.lock").symlink_to(theirs)
    with pytest.raises(UsageError, match="m3-gpu-"):
        claimed_gpu()
    assert not theirs.exists()


def test_on_a_cpu_nothing_is_copied() -> None:
    values = torch.ones(3)
    with own_stream("cpu"):
        assert to_device(values, "cpu") is values
        assert to_host([values])[0] is values
    assert to_host([]) == []


@needs_gpu
@pytest.mark.parametrize(("precision", "cosine"), [("float32", 0.99999), ("float16", 0.9995), ("bfloat16", 0.999)])
def test_two_streams_give_the_vectors_of_the_cpu(tiny_model: Path, precision: str, cosine: float) -> None:
    texts = [f"note {number} " + "the key is at the front desk " * (number % 9) for number in range(200)]
    exact = Encoder.load(tiny_model, device="cpu", precision="float32").encode(texts)
    encoder = Encoder.load(tiny_model, device="cuda", precision=precision)
    found = encoder.encode(texts, batch_tokens=256)
    again = encoder.encode(texts, batch_tokens=1 << 20)
    for part in (found, again):
        assert cosines(exact.dense, part.dense).min() > cosine
        assert exact.multi is not None
        assert part.multi is not None
        assert cosines(exact.multi.values, part.multi.values).min() > cosine - 0.005
        if precision == "float32":
            assert exact.lexical is not None
            assert part.lexical is not None
            assert np.abs(exact.lexical.weights - part.lexical.weights).max() < 1e-4


def cosines(left: Float32Array | None, right: Float32Array | None) -> Float32Array:
    """Of the rows of two arrays of unit vectors."""
    assert left is not None
    assert right is not None
    products: Float32Array = (left * right).sum(axis=1)
    return products
