"""What a training run is asked to do, and what identifies it: the same job goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m3core.train.examples import Limits
from m3core.train.finetune import Plan
from m3core.train.modes import Lora, Mode
from pipelines.ingest.ids import canonical_json

if TYPE_CHECKING:
    from pipelines.train.rows import DataFile

Presets = Literal["keep", "mine"]


@dataclass(frozen=True)
class Amount:
    """How long to train: whichever comes first. Nothing given is one epoch."""

    epochs: float | None = None
    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Watching:
    """Which sets are measured on the way, with how many queries, every how many steps (None: a tenth of the run), and
    after how many measurements without a better one the run stops (0: never).
    """

    folders: tuple[Path, ...] = ()
    queries: int = 300
    every: int | None = None
    patience: int = 0
    allow_shared: bool = False


@dataclass(frozen=True)
class Job:
    """One `m3 train`."""

    data: tuple[Path, ...]
    out: Path
    model: str = "m3-small"
    revision: str | None = None
    mode: Mode = "lora"
    lora: Lora = field(default_factory=Lora)
    query_tokens: int | None = None
    passage_tokens: int | None = None
    drop_long: bool = False
    max_bad_rows: int = 10
    amount: Amount = field(default_factory=Amount)
    # Its precision and budget are found out later: by this machine, and from the data.
    plan: Plan = field(default_factory=Plan)
    precision: str = "auto"
    watching: Watching = field(default_factory=Watching)
    presets: Presets = "keep"
    plot: bool = True
    checkpoint_seconds: float = 180.0
    command: str = "m3 train"

    def identity(
        self, fingerprint: str, files: Sequence[DataFile], dev: Sequence[str], limits: Limits
    ) -> dict[str, Any]:
        """Everything that decides what comes out, but for the name of the output."""
        return {
            "model": fingerprint,
            "data": [each.sha256 for each in files],
            "dev": list(dev),
            "mode": self.mode,
            "lora": asdict(self.lora),
            "limits": asdict(limits),
            "amount": asdict(self.amount),
            "plan": asdict(self.plan),
            "precision": self.precision,
            "watching": [self.watching.queries, self.watching.every, self.watching.patience],
        }


def key_of(identity: dict[str, Any]) -> str:
    """A short name for a run's identity."""
    return sha256(canonical_json(identity).encode()).hexdigest()[:16]
