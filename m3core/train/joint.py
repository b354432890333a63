"""Joint training of the three signals: low-rank adapters over the last blocks, the sparse and the multi-vector head.

InfoNCE for each signal and for their sum, s_d + 0.3 s_l + s_m (M3-Embedding, section 3.3). The blocks below the adapter
are frozen, so their states are computed once; with an adapter of depth 0 only the heads are trained.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from m3core.encoder import Encoder
from m3core.errors import TrainingError
from m3core.heads import Linear
from m3core.model import Backbone, dense_vectors
from m3core.train import losses
from m3core.train.adapter import Adapter, merged
from m3core.train.states import Say, States
from m3core.types import ALL_SIGNALS


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of the three groups of parameters, and the shares of the steps that warm up and that go by
    before the signals learn from their sum (1: they never do)."""

    adapter: float = 3e-4
    sparse: float = 5e-4
    multi: float = 1e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    distil_after: float = 0.1


@dataclass(frozen=True, slots=True)
class Batch:
    """Indices of texts. Row i asks `queries[i]` for `positives[i]`.

    `own_language[i]` is the same passage in the query's language: wrong for every row but i, where it does not count.
    Such a batch crosses languages: the words that a query shares are all in wrong passages, so the lexical score has no
    part in its loss, not even in the sum. It would learn that shared words are a bad sign.
    """

    queries: Sequence[int]
    positives: Sequence[int]
    own_language: Sequence[int] = ()


@dataclass(frozen=True)
class Parameters:
    """Everything that is trained."""

    adapter: Adapter
    sparse: Linear
    multi: Linear

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        heads = {"sparse.weight": self.sparse.weight, "sparse.bias": self.sparse.bias}
        heads |= {"multi.weight": self.multi.weight, "multi.bias": self.multi.bias}
        return {**self.adapter.tensors, **heads}

    def groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Parameter groups of an optimiser."""
        groups = [
            {"params": list(self.adapter.parameters()), "peak": rates.adapter},
            {"params": [self.sparse.weight, self.sparse.bias], "peak": rates.sparse},
            {"params": [self.multi.weight, self.multi.bias], "peak": rates.multi},
        ]
        return [{**group, "lr": group["peak"]} for group in groups if group["params"]]


@dataclass(frozen=True)
class Texts:
    """The three signals of some texts, padded: ids and mask `[B, T]`, dense `[B, H]`, weights `[B, T]`, and
    multi-vectors `[B, T - 1, D']` of all tokens but the first.
    """

    ids: Tensor
    mask: Tensor
    dense: Tensor
    weights: Tensor
    vectors: Tensor


class Trainer:
    """One run: what is trained, on which states, in which order. `run` goes on from a checkpoint if there is one."""

    def __init__(
        self,
        encoder: Encoder,
        parameters: Parameters,
        queries: States,
        passages: States,
        schedule: Sequence[Batch],
        rates: Rates,
    ) -> None:
        self.parameters = parameters
        self.schedule = schedule
        self.history: list[dict[str, float]] = []
        self._encoder = encoder
        self._backbone = parameters.adapter.on(encoder.backbone)
        self._frozen = len(encoder.backbone.layers) - parameters.adapter.depth
        self._queries, self._passages = queries, passages
        self._dropped = torch.tensor(encoder.tokenizer.special.weightless)
        self._rates = rates
        self._optimiser = torch.optim.AdamW(parameters.groups(rates), weight_decay=rates.weight_decay)
        self._step = 0

    def run(self, say: Say, checkpoint: Path | None = None, every: float = 180.0) -> None:
        """Train to the end of the schedule. Raises TrainingError if a loss is not finite."""
        if checkpoint is not None and checkpoint.is_file():
            self._resume(checkpoint)
            say(f"resumed at step {self._step} of {len(self.schedule)}")
        first, started, saved = self._step, time.monotonic(), time.monotonic()
        for batch in self.schedule[first:]:
            figures = self._learn(batch)
            self.history.append({"step": self._step, "crossing": float(bool(batch.own_language)), **figures})
            self._step += 1
            now = time.monotonic()
            if self._step % 20 == 0:
                left = (now - started) / (self._step - first) * (len(self.schedule) - self._step)
                say(f"step {self._step} of {len(self.schedule)}, {left / 60:.0f} min left: {self._recent()}")
            if checkpoint is not None and now > saved + every:
                self._save(checkpoint)
                saved = now
        if checkpoint is not None:
            self._save(checkpoint)

    def _recent(self) -> str:
        parts = []
        for crossing, name in ((0.0, "questions"), (1.0, "crossing")):
            rows = [row for row in self.history[-40:] if row["crossing"] == crossing]
            if rows:
                means = {key: sum(row[key] for row in rows) / len(rows) for key in ("dense", "lexical", "multi", "sum")}
                parts.append(name + " " + " ".join(f"{key} {value:.3f}" for key, value in means.items()))
        return "; ".join(parts)

    def _learn(self, batch: Batch) -> dict[str, float]:
        ramp = max(1, round(len(self.schedule) * self._rates.warmup))
        rest = max(1, len(self.schedule) - ramp)
        share = (self._step + 1) / ramp if self._step < ramp else (len(self.schedule) - self._step) / rest
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * share
        parts = self.losses(batch)
        lexical = 0.0 if batch.own_language else losses.LEXICAL_LOSS
        loss = (parts["dense"] + lexical * parts["lexical"] + parts["multi"] + parts["sum"]) / 4
        if self._step >= len(self.schedule) * self._rates.distil_after:
            taught = parts["dense_taught"] + lexical * parts["lexical_taught"] + parts["multi_taught"]
            loss = (loss + taught / 3) / 2
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {self._step}: the loss is {float(loss.detach())} on queries {list(batch.queries)[:8]}",
                "lower the learning rates, or look at these texts",
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters.tensors().values(), 1.0)
        self._optimiser.step()
        return {name: round(float(value.detach()), 5) for name, value in parts.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE of dense, lexical, multi and their sum, and each signal's distillation from the sum (`_taught`); rows
        `[B]` against columns `[B]` or `[2 B]`.
        """
        columns = [*batch.positives, *batch.own_language]
        query, passage = self._forward([(self._queries, batch.queries), (self._passages, columns)])
        dense = query.dense @ passage.dense.T
        lexical = losses.lexical_scores(query.ids, query.weights, passage.ids, passage.weights, self._dropped)
        late = losses.max_sim_scores(query.vectors, query.mask[:, 1:], passage.vectors, passage.mask[:, 1:])
        scores = {"dense": dense, "lexical": lexical, "multi": late}
        scores["sum"] = dense + late
        if not batch.own_language:
            scores["sum"] = scores["sum"] + losses.LEXICAL_IN_SUM * lexical
        ignored = equally_right(batch)
        parts = {name: losses.info_nce(value, ignored) for name, value in scores.items()}
        for name in ("dense", "lexical", "multi"):
            parts[f"{name}_taught"] = losses.distillation(scores[name], scores["sum"], ignored)
        return parts

    def _forward(self, parts: Sequence[tuple[States, Sequence[int]]]) -> list[Texts]:
        """All texts through the adapted blocks in one pass, ordered by length as the blocks want them."""
        rows = [(states, row) for states, texts in parts for row in states.rows(texts)]
        lengths = [row.stop - row.start for _, row in rows]
        order = sorted(range(len(rows)), key=lambda i: -lengths[i])
        packed = torch.cat([rows[i][0].hidden[rows[i][1]] for i in order]).float()
        sorted_lengths = [lengths[i] for i in order]
        states = self._backbone.blocks(packed, sorted_lengths, slice(self._frozen, None))
        split = torch.split(states, sorted_lengths)
        back = {i: place for place, i in enumerate(order)}
        done, results = 0, []
        for _, texts in parts:
            mine = range(done, done + len(texts))
            results.append(self._signals([split[back[i]] for i in mine], [rows[i][0].ids[rows[i][1]] for i in mine]))
            done += len(texts)
        return results

    def _signals(self, states: Sequence[Tensor], ids: Sequence[Tensor]) -> Texts:
        pad = torch.nn.utils.rnn.pad_sequence
        counts = torch.tensor([len(part) for part in states])
        dense = dense_vectors(torch.cat(list(states)), counts.cumsum(0) - counts, counts, self._encoder.spec.pooling)
        padded = pad(list(states), batch_first=True)
        mask = torch.arange(padded.shape[1]) < counts[:, None]
        return Texts(
            ids=pad(list(ids), batch_first=True),
            mask=mask,
            dense=dense,
            weights=torch.relu(self.parameters.sparse(padded)).squeeze(-1) * mask,
            vectors=functional.normalize(self.parameters.multi(padded[:, 1:]), dim=-1),
        )

    def trained(self) -> Encoder:
        """The encoder as trained so far, adapters merged, heads rounded to float16 as they are shipped."""
        sparse, multi = (_half(head) for head in (self.parameters.sparse, self.parameters.multi))
        return replace(
            self._encoder,
            spec=replace(self._encoder.spec, multi_dim=len(multi.weight)),
            signals=ALL_SIGNALS,
            backbone=merged(self._half_adapter()),
            sparse_head=sparse,
            multi_head=multi,
        )

    def _half_adapter(self) -> Backbone:
        adapter = self.parameters.adapter
        rounded = {name: tensor.detach().half().float() for name, tensor in adapter.tensors.items()}
        return replace(adapter, tensors=rounded).on(self._encoder.backbone)

    def _save(self, path: Path) -> None:
        state = {
            "step": self._step,
            "history": self.history,
            "tensors": {name: tensor.detach() for name, tensor in self.parameters.tensors().items()},
            "optimiser": self._optimiser.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for name, tensor in self.parameters.tensors().items():
                tensor.copy_(state["tensors"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._step, self.history = state["step"], state["history"]


def equally_right(batch: Batch) -> Tensor:
    """Columns that a row must not learn to push away, `[B, B]` or `[B, 2 B]`: other copies of its own passage."""
    columns = torch.tensor([*batch.positives, *batch.own_language])
    own = torch.tensor(batch.positives)[:, None] == columns
    if batch.own_language:
        own |= torch.tensor(batch.own_language)[:, None] == columns
    own.fill_diagonal_(False)
    return own


def _half(head: Linear) -> Linear:
    return Linear(head.weight.detach().half().float(), head.bias.detach().half().float())
