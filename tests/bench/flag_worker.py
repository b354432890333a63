"""FlagEmbedding as a process of its own environment, for timing: it loads once and encodes on demand.

As a script (in the reference environment) it reads one JSON line with the model and the texts, then one batch size a
line, and answers each with the seconds that encoding took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m3core.checkpoint import ModelSpec

_REFERENCE = Path(__file__).parents[2] / ".venv-reference" / "bin" / "python"


def find_reference() -> Path | None:
    """The reference environment's Python, or None if it was not made."""
    return _REFERENCE if _REFERENCE.is_file() else None


class FlagWorker:
    """The other process. The model's prefixes are put before the texts here: its encode() adds none."""

    def __init__(self, python: Path, spec: ModelSpec, texts: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        job = {
            "folder": str(spec.folder),
            "pooling": spec.pooling,
            "colbert_dim": -1 if spec.multi_dim == spec.dense_dim else spec.multi_dim,
            "max_length": spec.max_length,
            "texts": [spec.passage_prefix + text for text in texts],
        }
        self._ask(json.dumps(job))

    def seconds(self, batch_size: int) -> float:
        """Encode all texts with dense, lexical and multi-vectors."""
        return float(self._ask(str(batch_size)))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the reference process ended with {self._process.wait()}; run {__file__} by hand")
        return answer


def _serve() -> None:
    from FlagEmbedding import BGEM3FlagModel

    out, sys.stdout = sys.stdout, sys.stderr
    job = json.loads(sys.stdin.readline())
    model = BGEM3FlagModel(
        job["folder"],
        use_fp16=False,
        devices=["cpu"],
        pooling_method=job["pooling"],
        colbert_dim=job["colbert_dim"],
    )
    print("loaded", file=out, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        model.encode(
            job["texts"],
            batch_size=int(line),
            max_length=job["max_length"],
            return_dense=True,
            return_sparse=True,
            return_colbert_vecs=True,
        )
        print(time.perf_counter() - started, file=out, flush=True)


if __name__ == "__main__":
    _serve()
