"""What made the vectors of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from m3core.types import Signal, TextKind

if TYPE_CHECKING:
    from m3core.encoder import Encoder


@dataclass(frozen=True)
class Origin:
    """The model, what its texts were taken for, and the widths of what it gives."""

    model: str
    fingerprint: str
    text_kind: TextKind
    signals: tuple[Signal, ...]
    dense_dim: int
    multi_dim: int

    @classmethod
    def of(cls, encoder: Encoder, kind: TextKind) -> Origin:
        """The origin of what this encoder makes of texts of this kind."""
        spec = encoder.spec
        return cls(spec.name, encoder.fingerprint, kind, encoder.signals, spec.dense_dim, spec.multi_dim)

    @property
    def labels(self) -> dict[str, str]:
        """`model`, `fingerprint` and `text_kind`: part of every file that has room for them."""
        return {"model": self.model, "fingerprint": self.fingerprint, "text_kind": self.text_kind}
