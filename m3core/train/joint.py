"""Joint training of the three signals: low-rank adapters over the last blocks, the sparse and the multi-vector head.

The blocks below the adapter are frozen, so their states are computed once; with an adapter of depth 0 only the heads
are trained. The loss is m3core.train.objective's; optimiser, rates and checkpoints are m3core.train.loop's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from m3core.encoder import Encoder
from m3core.train.adapter import Adapter
from m3core.train.loop import Budget, Loop, Step
from m3core.train.losses import TAU
from m3core.train.modes import trained_encoder
from m3core.train.objective import SUM, Columns, Objective
from m3core.train.parameters import Parameters, Rates
from m3core.train.signals import Texts, embed, longest_first
from m3core.train.states import Say, States
from m3core.types import ALL_SIGNALS

_TOLD_EVERY = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Indices of texts. Row i asks `queries[i]` for `positives[i]`.

    `own_language[i]` is the same passage in the query's language: wrong for every row but i, where it does not count.
    Such a batch crosses languages, and the lexical score has no part in its loss, not even in the sum.
    """

    queries: Sequence[int]
    positives: Sequence[int]
    own_language: Sequence[int] = ()


class Trainer:
    """One run: what is trained, on which states, in which order. `run` goes on from a checkpoint if there is one."""

    def __init__(
        self,
        encoder: Encoder,
        parameters: Parameters[Adapter],
        queries: States,
        passages: States,
        schedule: Sequence[Batch],
        rates: Rates,
        tau: float = TAU,
    ) -> None:
        self.parameters = parameters
        self.schedule = schedule
        self._encoder = encoder
        self._backbone = parameters.body.on(encoder.backbone)
        self._frozen = parameters.body.frozen_blocks(encoder.backbone)
        self._queries, self._passages = queries, passages
        self._dropped = torch.tensor(encoder.tokenizer.special.weightless)
        self._loop = Loop(parameters, rates, Budget(steps=len(schedule)))
        self._within = Objective(tau=tau)
        # Across languages the words that a query shares are all in wrong passages: the lexical score would learn that
        # shared words are a bad sign.
        self._across = Objective(tau=tau, lexical_loss=0.0, lexical_in_sum=0.0)

    @property
    def history(self) -> list[dict[str, float]]:
        """A row per step: its number, whether it crossed languages, and the terms of its loss."""
        return self._loop.history

    def run(self, say: Say, checkpoint: Path | None = None, every: float = 180.0) -> None:
        """Train to the end of the schedule. Raises TrainingError if a loss is not finite."""
        loop = self._loop
        if checkpoint is not None and checkpoint.is_file():
            loop.resume(checkpoint)
            say(f"resumed at step {loop.step} of {len(self.schedule)}")
        first, started, saved = loop.step, time.monotonic(), time.monotonic()

        def after() -> bool:
            nonlocal saved
            now = time.monotonic()
            if loop.step % _TOLD_EVERY == 0:
                left = (now - started) / (loop.step - first) * (len(self.schedule) - loop.step)
                say(f"step {loop.step} of {len(self.schedule)}, {left / 60:.0f} min left: {self._recent()}")
            if checkpoint is not None and now > saved + every:
                loop.save(checkpoint)
                saved = now
            return False

        loop.run(self._learn, lambda step: f"queries {list(self.schedule[step].queries)[:8]}", after)
        if checkpoint is not None:
            loop.save(checkpoint)

    def _recent(self) -> str:
        parts = []
        for crossing, name in ((0.0, "questions"), (1.0, "crossing")):
            rows = [row for row in self.history[-40:] if row["crossing"] == crossing]
            if rows:
                means = {key: sum(row[key] for row in rows) / len(rows) for key in ("dense", "lexical", "multi", SUM)}
                parts.append(name + " " + " ".join(f"{key} {value:.3f}" for key, value in means.items()))
        return "; ".join(parts)

    def _learn(self, step: int, share: float) -> Step:
        batch = self.schedule[step]
        parts = self.losses(batch)
        loss = self._objective(batch).loss(parts, distil=share >= self._loop.rates.distil_after)
        loss.backward()  # type: ignore[no-untyped-call]
        figures = {name: round(float(value.detach()), 5) for name, value in parts.items()}
        return Step(float(loss.detach()), {"crossing": float(bool(batch.own_language)), **figures})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the objective: InfoNCE of dense, lexical, multi and their sum, and each signal's distillation
        from the sum (`_taught`); rows `[B]` against columns `[B]` or `[2 B]`.
        """
        columns = [*batch.positives, *batch.own_language]
        query, passage = self._forward([(self._queries, batch.queries), (self._passages, columns)])
        return self._objective(batch).parts(query, passage, Columns(equally_right(batch)), self._dropped)

    def _objective(self, batch: Batch) -> Objective:
        return self._across if batch.own_language else self._within

    def _forward(self, parts: Sequence[tuple[States, Sequence[int]]]) -> list[Texts]:
        """All texts through the adapted blocks in one pass, ordered by length as the blocks want them."""
        rows = [(states, row) for states, texts in parts for row in states.rows(texts)]
        lengths = [row.stop - row.start for _, row in rows]
        order = longest_first(lengths)
        packed = torch.cat([rows[i][0].hidden[rows[i][1]] for i in order]).float()
        ids = torch.cat([rows[i][0].ids[rows[i][1]] for i in order])
        counts = [lengths[i] for i in order]
        states = self._backbone.blocks(packed, counts, slice(self._frozen, None))
        heads = self.parameters.sparse, self.parameters.multi
        embedded = embed(states, ids, torch.tensor(counts), heads, self._encoder.spec.pooling)
        back = {i: place for place, i in enumerate(order)}
        done, results = 0, []
        for _, texts in parts:
            results.append(embedded.padded([back[i] for i in range(done, done + len(texts))]))
            done += len(texts)
        return results

    def trained(self) -> Encoder:
        """The encoder as trained so far, as it is shipped: adapter and heads rounded to float16, the adapter merged."""
        parameters = self.parameters
        body = parameters.body
        rounded = {name: tensor.detach().half().float() for name, tensor in body.tensors.items()}
        spec = replace(self._encoder.spec, multi_dim=len(parameters.multi.weight))
        return trained_encoder(
            replace(self._encoder, spec=spec, signals=ALL_SIGNALS),
            replace(parameters, body=replace(body, tensors=rounded)),
        )


def equally_right(batch: Batch) -> Tensor:
    """Columns that a row must not learn to push away, `[B, B]` or `[B, 2 B]`: other copies of its own passage."""
    columns = torch.tensor([*batch.positives, *batch.own_language])
    own = torch.tensor(batch.positives)[:, None] == columns
    if batch.own_language:
        own |= torch.tensor(batch.own_language)[:, None] == columns
    own.fill_diagonal_(False)
    return own
