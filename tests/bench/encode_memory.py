"""Memory of one encoder over a long run: many short texts, then texts as long as the model reads.

    python -m tests.bench.encode_memory [--short 200000] [--long 200] [--window-tokens 65536]

Prints the peak resident size of each phase's two halves; exit code 1 if a second half is more than 5 % above the first.
The model is the random two-layer XLM-RoBERTa of the goldens with the tokenizer of the pulled m3-small. Linux only: the
kernel keeps the peak and is told to forget it between the halves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3core.encoder import Encoder
from m3core.windows import WINDOW_TOKENS
from m3core.zoo import resolve_model
from tests.reference.make_models import XLMR_2_LAYER, make_model
from tests.reference.texts import body_of

_ALLOWED = 1.05
_SPECIALS = 2


def short_texts(count: int) -> Iterator[str]:
    """Texts of 1 to 40 words, made as they are asked for."""
    chance = np.random.default_rng(0)
    for number in range(count):
        yield f"{number} {body_of(int(chance.integers(1, 41)))}"


def long_texts(count: int, tokens: int) -> Iterator[str]:
    """Texts of exactly `tokens` tokens, specials included; all of the same length, as large as a batch can get."""
    text = body_of(tokens - _SPECIALS)
    for _ in range(count):
        yield text


def forget_peak() -> None:
    """Let the kernel's peak start again from what is resident now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Peak resident size since it was last forgotten."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Phase:
    """What a phase took; `peaks` are bytes of its first and its second half."""

    name: str
    texts: int
    tokens: int
    seconds: float
    peaks: Sequence[int]

    @property
    def growth(self) -> float:
        """The second half's peak as a multiple of the first's."""
        return self.peaks[1] / self.peaks[0]

    def __str__(self) -> str:
        first, second = (f"{peak / (1 << 20):,.1f} MiB" for peak in self.peaks)
        pace = f"{self.texts:,} texts, {self.tokens:,} tokens, {self.seconds:,.0f} s"
        return f"{self.name:<12} {pace:<48} peak {first}, then {second} ({self.growth - 1:+.1%})"


def run_phase(name: str, encoder: Encoder, texts: Iterator[str], count: int, window_tokens: int) -> Phase:
    """Stream the texts and drop their vectors. Raises ValueError unless all of them come out."""
    started, done, tokens = time.monotonic(), 0, 0
    peaks: list[int] = []
    forget_peak()
    for encoded in encoder.stream(texts, window_tokens=window_tokens):
        done += len(encoded)
        tokens += int(encoded.token_counts.sum())
        if not peaks and 2 * done >= count:
            peaks.append(peak_bytes())
            forget_peak()
    peaks.append(peak_bytes())
    if done != count or len(peaks) != 2:
        raise ValueError(f"{name}: {done} of {count} texts came out")
    return Phase(name, done, tokens, time.monotonic() - started, peaks)


def main() -> int:
    """Run both phases and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=int, default=200_000, metavar="N")
    parser.add_argument("--long", type=int, default=200, metavar="N")
    parser.add_argument("--window-tokens", type=int, default=WINDOW_TOKENS, metavar="N")
    options = parser.parse_args()
    tokenizer = resolve_model("m3-small") / "tokenizer.json"
    with tempfile.TemporaryDirectory() as folder:
        encoder = Encoder.load(make_model(XLMR_2_LAYER, Path(folder) / XLMR_2_LAYER.name, tokenizer), device="cpu")
        limit = encoder.spec.limit("passage")
        phases = [
            run_phase("short texts", encoder, short_texts(options.short), options.short, options.window_tokens),
            run_phase("long texts", encoder, long_texts(options.long, limit), options.long, options.window_tokens),
        ]
    for phase in phases:
        print(phase)
    if phases[1].tokens != options.long * limit:
        raise ValueError(f"long texts have {phases[1].tokens} tokens, not {options.long} times {limit}")
    return 0 if all(phase.growth <= _ALLOWED for phase in phases) else 1


if __name__ == "__main__":
    sys.exit(main())
