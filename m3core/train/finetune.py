"""Training on somebody's own rows: one batch's gradient at a time, on the whole model or a part of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3core.encoder import Encoder
from m3core.precision import Precision
from m3core.train.distributed import ALONE, Group
from m3core.train.examples import Examples
from m3core.train.gradient import Forward, Loss, batch_gradient
from m3core.train.loop import Budget, Loop, Step
from m3core.train.modes import trained_encoder
from m3core.train.objective import Objective
from m3core.train.parameters import Parameters, Rates
from m3core.train.schedule import Batch, Batching, Schedule, rows_of
from m3core.train.signals import Embedded, embed, through_blocks
from m3core.train.states import States

_NAMED = 4
_DIGITS = 6


@dataclass(frozen=True)
class Plan:
    """How a run learns."""

    batching: Batching = field(default_factory=Batching)
    rates: Rates = field(default_factory=Rates)
    objective: Objective = field(default_factory=Objective)
    budget: Budget = field(default_factory=Budget)
    teacher: bool = False
    seed: int = 0
    precision: Precision = "float32"


class Finetune:
    """A run on prepared examples. `loop` holds its state, `learn` is one step of it.

    `kept` are the states of the examples' texts under everything that learns, where several runs share them.
    """

    def __init__(
        self,
        encoder: Encoder,
        parameters: Parameters[Any],
        examples: Examples,
        plan: Plan,
        group: Group = ALONE,
        schedule: Schedule | None = None,
        kept: States | None = None,
    ) -> None:
        self.encoder = encoder
        self.parameters = parameters
        self.schedule = schedule or Schedule(examples, plan.batching, plan.seed)
        self._examples = examples.examples
        self._token_ids = examples.token_ids
        self._plan = plan
        self._group = group
        self._dropped = torch.tensor(encoder.tokenizer.special.weightless)
        self._backbone = parameters.body.on(encoder.backbone)
        self._frozen = parameters.body.frozen_blocks(encoder.backbone)
        self._kept = kept
        self._autocast = None if plan.precision == "float32" else getattr(torch, plan.precision)
        self._forward = Forward(self._below, self._above, examples.lengths)
        self.loop = Loop(parameters, plan.rates, plan.budget, group)

    def learn(self, step: int, share: float) -> Step:
        """Add a step's gradient to the parameters; see m3core.train.loop."""
        batch = self.schedule.batch(step)
        rows = rows_of(batch, self._examples, teacher=self._plan.teacher)
        loss = Loss(self._plan.objective, self._dropped, distil=share >= self._plan.rates.distil_after)
        value, terms = batch_gradient(self._forward, rows, loss, self._plan.batching.part_tokens, self._group)
        tokens = self.schedule.tokens(batch)
        figures = {name: round(term, _DIGITS) for name, term in {"loss": value, **terms}.items()}
        return Step(value, {"rows": float(len(batch.examples)), "tokens": float(tokens), **figures})

    def places(self, batch: Batch) -> list[str]:
        """Where the rows of a batch come from."""
        return [self._examples[i].row.place for i in batch.examples]

    def blame(self, step: int, path: Path | None) -> str:
        """Words for an error at a step; all places of its rows are saved at `path`."""
        places = self.places(self.schedule.batch(step))
        named = ", ".join(places[:_NAMED]) + (f" and {len(places) - _NAMED} more" if len(places) > _NAMED else "")
        if path is None or not self._group.leads:
            return f"rows {named}"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": step, "rows": places}, indent=1) + "\n", encoding="utf-8")
        return f"rows {named} (all of them: {path})"

    def trained(self) -> Encoder:
        """The encoder as trained so far, as it would be written."""
        return trained_encoder(self.encoder, self.parameters)

    def _below(self, texts: Sequence[int]) -> Tensor:
        """States `[P, H]` under the first block that learns; the ids `[P]` where the embeddings learn."""
        if self._frozen is None:
            return self._ids(texts)
        if self._kept is not None:
            return torch.cat([self._kept.hidden[row] for row in self._kept.rows(texts)]).to(self._backbone.words.dtype)
        lengths = self._lengths(texts)
        states = self._backbone.embed(self._ids(texts), lengths)
        return through_blocks(self._backbone, states, lengths, slice(self._frozen), self._autocast)

    def _above(self, below: Tensor, texts: Sequence[int]) -> Embedded:
        lengths = self._lengths(texts)
        states = self._backbone.embed(below, lengths) if self._frozen is None else below
        states = through_blocks(self._backbone, states, lengths, slice(self._frozen, None), self._autocast)
        heads = self.parameters.sparse, self.parameters.multi
        return embed(states, self._ids(texts), torch.tensor(lengths), heads, self.encoder.spec.pooling)

    def _ids(self, texts: Sequence[int]) -> Tensor:
        # Kept as int32, looked up as int64.
        return torch.cat([self._token_ids[text] for text in texts]).long()

    def _lengths(self, texts: Sequence[int]) -> list[int]:
        return [len(self._token_ids[text]) for text in texts]
