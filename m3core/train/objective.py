"""The loss of a batch: InfoNCE of each signal and of their sum, distillation from the sum, teacher scores.

M3-Embedding (arXiv:2402.03216), sections 3.2 and 3.3:
    s_sum = s_dense + 0.3 s_lexical + s_multi        L = (L_dense + 0.1 L_lexical + L_multi + L_sum) / 4
    L' = (L'_dense + 0.1 L'_lexical + L'_multi) / 3   loss = (L + L') / 2 once distillation has begun

A softmax is over score / tau. The sum's logits are the weighted sum of the signals' own, which with one tau for all is
s_sum / tau.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from m3core.train import losses
from m3core.train.signals import Texts
from m3core.types import ALL_SIGNALS, Signal

SUM = "sum"
TAUGHT, TEACHER = "_taught", "_teacher"


@dataclass(frozen=True)
class Columns:
    """What the columns of a score matrix `[B, C]` are to its rows.

    Row i's own column is `first` + i. `ignored` `[B, C]` marks columns that are neither its own nor wrong. `teacher`
    `[B, C]` holds scores of a row's own group, NaN elsewhere; None where nobody gave any.
    """

    ignored: Tensor
    first: int = 0
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """Which signals learn, and how. One signal alone has no sum and nothing to distil from.

    `tau` is the temperature of dense and multi-vector scores; the lexical score's is M3's. A backbone that was trained
    with another one (E5: 0.01) is pulled away from what it knows by M3's.
    """

    signals: tuple[Signal, ...] = ALL_SIGNALS
    tau: float = losses.TAU
    lexical_loss: float = losses.LEXICAL_LOSS
    lexical_in_sum: float = losses.LEXICAL_IN_SUM

    def parts(self, query: Texts, passage: Texts, columns: Columns, dropped: Tensor) -> dict[str, Tensor]:
        """Every term by name: each signal and `sum`, `_taught` from the sum, `_teacher` from given scores. Means over
        the B rows.
        """
        logits: dict[str, Tensor] = {}
        if Signal.DENSE in self.signals:
            logits[Signal.DENSE.value] = query.dense @ passage.dense.T / self.tau
        if Signal.LEXICAL in self.signals:
            shared = losses.lexical_scores(query.ids, query.weights, passage.ids, passage.weights, dropped)
            logits[Signal.LEXICAL.value] = shared / losses.TAU
        if Signal.MULTI in self.signals:
            met = losses.max_sim_scores(query.vectors, query.mask[:, 1:], passage.vectors, passage.mask[:, 1:])
            logits[Signal.MULTI.value] = met / self.tau
        together = {**logits, SUM: self._weighted(self.lexical_in_sum, logits)} if len(logits) > 1 else logits
        parts = {name: losses.info_nce(value, columns.ignored, columns.first) for name, value in together.items()}
        if SUM in together:
            for name, value in logits.items():
                parts[name + TAUGHT] = losses.distillation(value, together[SUM], columns.ignored)
        if columns.teacher is not None:
            for name, value in together.items():
                parts[name + TEACHER] = losses.group_distillation(value, columns.teacher)
        return parts

    def loss(self, parts: Mapping[str, Tensor], *, distil: bool) -> Tensor:
        """The loss of the step from its terms."""
        names = [signal.value for signal in self.signals]
        if len(names) == 1:
            return self._taught(parts, names[0])
        apart = self._weighted(self.lexical_loss, {name: self._taught(parts, name) for name in names})
        loss = (apart + self._taught(parts, SUM)) / (len(names) + 1)
        if distil:
            taught = self._weighted(self.lexical_loss, {name: parts[name + TAUGHT] for name in names})
            loss = (loss + taught / len(names)) / 2
        return loss

    @staticmethod
    def _taught(parts: Mapping[str, Tensor], name: str) -> Tensor:
        """InfoNCE, plus the cross entropy against the teacher where there is one, as FlagEmbedding adds it."""
        return parts[name] + parts[name + TEACHER] if name + TEACHER in parts else parts[name]

    @staticmethod
    def _weighted(lexical: float, values: Mapping[str, Tensor]) -> Tensor:
        """The sum of all values, the lexical one times `lexical`: at 0 it takes no part, nor does its gradient."""
        terms = [lexical * value if name == Signal.LEXICAL else value for name, value in values.items()]
        kept = [term for name, term in zip(values, terms, strict=True) if lexical or name != Signal.LEXICAL]
        return torch.stack(kept).sum(0)
