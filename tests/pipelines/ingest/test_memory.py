"""Peak anonymous memory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.ingest import memory
from pipelines.ingest.memory import MemoryPeak, anonymous_bytes


@pytest.mark.skipif(anonymous_bytes() is None, reason="no /proc here")
def test_the_peak_remembers_memory_that_was_given_back() -> None:
    with MemoryPeak() as peak:
        before = peak.bytes()
        block = np.ones(64 << 20, dtype=np.uint8)
        time.sleep(0.5)
        del block
        assert before + (48 << 20) < peak.bytes() < before + (256 << 20)
        assert peak.kind == "anonymous"


def test_without_proc_it_says_that_it_is_the_resident_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    with MemoryPeak() as peak:
        assert peak.kind == "resident"
        assert peak.bytes() > 1 << 20
