"""Train the sparse and the multi-vector head on a frozen backbone: InfoNCE for each head and for their sum.

    python -m m3core.train.heads --backbone FOLDER --data pairs.parquet --out FOLDER [--dev DIR ...]

The backbone's states are computed once and kept in float16, so epochs are cheap. Writes `sparse_linear.pt`,
`colbert_linear.pt` and `training.json` (command, seed, data hash, figures). Joint training of the backbone is a later
command's; it starts from these heads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3core.batching import token_budget_batches
from m3core.encoder import Encoder
from m3core.errors import UsageError
from m3core.evaluate.beir import evaluate_folder
from m3core.heads import Linear
from m3core.layout import MULTI_HEAD, SPARSE_HEAD
from m3core.model import dense_vectors
from m3core.train import losses
from m3core.train.pairs import Pair, SamplePlan, batches, file_sha256, read_pairs
from m3core.types import Signal, TextKind


@dataclass(frozen=True)
class HeadTraining:
    """Settings of a run; recorded beside the heads."""

    sample: SamplePlan = field(default_factory=SamplePlan)
    multi_dim: int = 128
    batch: int = 48
    epochs: int = 2
    sparse_rate: float = 5e-4
    # Small: in-batch negatives are of one language, so a long training unlearns to match across languages.
    multi_rate: float = 2e-5
    shrink: float = 0.5
    warmup: float = 0.06
    query_tokens: int = 64
    passage_tokens: int = 160
    seed: int = 0


@dataclass(frozen=True)
class States:
    """Backbone states of N texts, packed: `hidden` f16 `[P, H]`, `ids` `[P]`, `offsets` `[N + 1]`, `dense` `[N, H]`.

    `leading` counts the tokens before a text's own: the first special and the prefix.
    """

    hidden: Tensor
    ids: Tensor
    offsets: Tensor
    dense: Tensor
    leading: int

    def padded(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """States f32 `[B, T, H]`, ids `[B, T]` and mask `[B, T]` of some texts."""
        rows = [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in indices]
        pad = torch.nn.utils.rnn.pad_sequence
        hidden = pad([self.hidden[row].float() for row in rows], batch_first=True)
        ids = pad([self.ids[row] for row in rows], batch_first=True)
        mask = pad([torch.ones(row.stop - row.start, dtype=torch.bool) for row in rows], batch_first=True)
        return hidden, ids, mask


@torch.inference_mode()
def backbone_states(encoder: Encoder, texts: Sequence[str], kind: TextKind, max_length: int) -> States:
    """Run the frozen backbone once over all texts (with the model's prefix), float16 results in their order."""
    token_ids, _ = encoder.tokenizer.encode(texts, encoder.spec.prefix(kind), max_length)
    lengths = torch.tensor([len(ids) for ids in token_ids])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    hidden = torch.empty(int(offsets[-1]), encoder.spec.dense_dim, dtype=torch.float16)
    dense = torch.empty(len(texts), encoder.spec.dense_dim)
    done, started = 0, time.monotonic()
    for number, indices in enumerate(token_budget_batches(lengths.tolist(), 4096)):
        counts = lengths[indices]
        packed = torch.tensor([token for i in indices for token in token_ids[i]])
        states = encoder.backbone(packed, counts.tolist())
        starts = counts.cumsum(0) - counts
        dense[indices] = dense_vectors(states, starts, counts, encoder.spec.pooling)
        for place, index in enumerate(indices):
            begin = int(starts[place])
            hidden[int(offsets[index]) : int(offsets[index + 1])] = states[begin : begin + int(counts[place])].half()
        done += int(counts.sum())
        if number % 20 == 0:
            rate = done / (time.monotonic() - started)
            _say(f"{kind} states: {done:,} of {int(offsets[-1]):,} tokens, {rate:,.0f} tokens/s")
    ids = torch.tensor([token for ids in token_ids for token in ids])
    leading = encoder.tokenizer.special_overhead(encoder.spec.prefix(kind)) - 1
    return States(hidden, ids, offsets, dense, leading)


def text_means(states: States, texts: Sequence[int]) -> Tensor:
    """Mean state of each text's own tokens, without prefix and specials, `[N, H]`."""
    bounds = [(int(states.offsets[i]) + states.leading, int(states.offsets[i + 1]) - 1) for i in texts]
    rows = [states.hidden[min(start, stop - 1) : stop] for start, stop in bounds]
    return torch.stack([row.float().mean(0) for row in rows])


def shared_meaning_head(left: Tensor, right: Tensor, mean: Tensor, width: int, shrink: float) -> tuple[Tensor, Tensor]:
    """Start of the multi-vector head: what translations share, without what tells their languages apart.

    `left` and `right` `[N, H]` are means of N translation pairs. Linear discriminant analysis (Fisher 1936) with a pair
    as class: directions are scaled by the inverse root of the covariance within pairs, shrunk towards the identity, and
    the `width` of the largest covariance between pairs are kept. `mean` `[H]` is subtracted.
    """
    difference = left - right
    within = difference.T @ difference
    within = (1 - shrink) * within * (len(within) / within.trace()) + shrink * torch.eye(len(within))
    values, vectors = torch.linalg.eigh(within)
    whitening = vectors @ torch.diag(values**-0.5) @ vectors.T
    _, directions = torch.linalg.eigh(whitening @ torch.cov(((left + right) / 2).T) @ whitening)
    weight = directions[:, -width:].T @ whitening
    weight = weight / weight.norm(dim=1).mean()
    return weight.contiguous(), -(weight @ mean)


def _multi_start(queries: States, passages: States, pairs: Sequence[Pair], plan: HeadTraining) -> tuple[Tensor, Tensor]:
    translations = [i for i, pair in enumerate(pairs) if pair.translation]
    if not translations:
        raise UsageError("the sample holds no translations", "the multi-vector head starts from them: add some")
    left, right = text_means(queries, translations), text_means(passages, translations)
    mean = torch.cat([left, right]).mean(0)
    return shared_meaning_head(left, right, mean, min(plan.multi_dim, left.shape[1]), plan.shrink)


def idf_head(states: States, dropped: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Start of the sparse head: ridge regression of token states on the token's inverse document frequency.

    The targets are scaled to mean 0.15, near what trained M3 heads give.
    """
    texts = len(states.offsets) - 1
    owner = torch.repeat_interleave(torch.arange(texts), states.offsets.diff())
    token_of_text = torch.unique(torch.stack([owner, states.ids]), dim=1)[1]
    frequency = torch.bincount(token_of_text, minlength=int(states.ids.max()) + 1).float()
    rows = torch.from_numpy(rng.choice(len(states.hidden), size=min(200_000, len(states.hidden)), replace=False))
    rows = rows[~torch.isin(states.ids[rows], dropped)]
    target = torch.log(texts / frequency[states.ids[rows]])
    target = target * (0.15 / target.mean())
    sample = functional.pad(states.hidden[rows].float(), (0, 1), value=1.0)
    gram = sample.T @ sample + 1e-3 * len(rows) * torch.eye(sample.shape[1])
    solution = torch.linalg.solve(gram, sample.T @ target)
    return solution[None, :-1].clone(), solution[-1:].clone()


def train_heads(
    queries: States, passages: States, pairs: Sequence[Pair], dropped: Tensor, plan: HeadTraining
) -> tuple[Linear, Linear, list[dict[str, float]]]:
    """Train both heads; returns sparse head, multi-vector head and the losses every 50 steps."""
    rng = np.random.default_rng(plan.seed)
    torch.manual_seed(plan.seed)
    start = [*idf_head(passages, dropped, rng), *_multi_start(queries, passages, pairs, plan)]
    sparse_weight, sparse_bias, multi_weight, multi_bias = (torch.nn.Parameter(value) for value in start)
    parameters = [sparse_weight, sparse_bias, multi_weight, multi_bias]
    peaks = (plan.sparse_rate, plan.multi_rate)
    optimiser = torch.optim.AdamW(
        [{"params": parameters[:2], "lr": peaks[0]}, {"params": parameters[2:], "lr": peaks[1]}], weight_decay=0.01
    )
    groups = [pair.group for pair in pairs]
    texts = np.array([hash(pair.positive) for pair in pairs])
    schedule = [batch for _ in range(plan.epochs) for batch in batches(groups, plan.batch, rng)]
    history: list[dict[str, float]] = []
    for step, indices in enumerate(schedule):
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * _schedule(step, len(schedule), plan.warmup)
        sparse, multi = Linear(sparse_weight, sparse_bias), Linear(multi_weight, multi_bias)
        same = torch.from_numpy(texts[indices][:, None] == texts[indices][None, :])
        same.fill_diagonal_(False)
        parts = batch_losses(queries, passages, indices, same, (sparse, multi), dropped)
        loss = (losses.LEXICAL_LOSS * parts["lexical"] + parts["multi"] + parts["sum"]) / 4
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 50 == 0 or step == len(schedule) - 1:
            history.append({"step": step, **{name: round(float(value.detach()), 4) for name, value in parts.items()}})
            _say(f"step {step} of {len(schedule)}: {history[-1]}")
    detached = [parameter.detach() for parameter in parameters]
    return Linear(detached[0], detached[1]), Linear(detached[2], detached[3]), history


def batch_losses(
    queries: States,
    passages: States,
    indices: Sequence[int],
    same: Tensor,
    heads: tuple[Linear, Linear],
    dropped: Tensor,
) -> dict[str, Tensor]:
    """InfoNCE of dense (no gradient: the backbone is frozen), lexical, multi and their sum for one batch."""
    sparse, multi = heads
    query_states, query_ids, query_mask = queries.padded(indices)
    passage_states, passage_ids, passage_mask = passages.padded(indices)
    dense = queries.dense[list(indices)] @ passages.dense[list(indices)].T
    lexical = losses.lexical_scores(
        query_ids,
        torch.relu(sparse(query_states)).squeeze(-1) * query_mask,
        passage_ids,
        torch.relu(sparse(passage_states)).squeeze(-1) * passage_mask,
        dropped,
    )
    late = losses.max_sim_scores(
        functional.normalize(multi(query_states[:, 1:]), dim=-1),
        query_mask[:, 1:],
        functional.normalize(multi(passage_states[:, 1:]), dim=-1),
        passage_mask[:, 1:],
    )
    total = dense + losses.LEXICAL_IN_SUM * lexical + late
    scores = {"dense": dense, "lexical": lexical, "multi": late, "sum": total}
    return {name: losses.info_nce(value, same) for name, value in scores.items()}


def _schedule(step: int, steps: int, warmup: float) -> float:
    ramp = max(1, round(steps * warmup))
    return (step + 1) / ramp if step < ramp else (steps - step) / max(1, steps - ramp)


def save_heads(folder: Path, sparse: Linear, multi: Linear) -> None:
    """Write both heads in float16, as BGE-M3 does."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, head in ((SPARSE_HEAD, sparse), (MULTI_HEAD, multi)):
        torch.save({"weight": head.weight.half(), "bias": head.bias.half()}, folder / name)


def main(arguments: Sequence[str]) -> None:
    """Entry point: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m m3core.train.heads", description=__doc__)
    parser.add_argument("--backbone", type=Path, required=True, help="model folder; its heads are not used")
    parser.add_argument("--data", type=Path, required=True, help="Parquet: query, positive, language, source, kind")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dev", type=Path, nargs="*", default=[], help="BEIR folders to report")
    parser.add_argument("--dev-queries", type=int, default=300)
    parser.add_argument("--states", type=Path, help="keep the backbone's states here, and reuse them")
    parser.add_argument("--pairs", type=int, default=SamplePlan.pairs)
    parser.add_argument("--epochs", type=int, default=HeadTraining.epochs)
    parser.add_argument("--seed", type=int, default=HeadTraining.seed)
    options = parser.parse_args(arguments)
    plan = HeadTraining(
        sample=SamplePlan(pairs=options.pairs, seed=options.seed), epochs=options.epochs, seed=options.seed
    )
    encoder = Encoder.load(options.backbone, signals=[Signal.DENSE])
    pairs = read_pairs(options.data, plan.sample)
    _say(f"{len(pairs):,} pairs in {len({pair.group for pair in pairs})} groups")
    queries, passages = _states(encoder, pairs, plan, options.states)
    dropped = torch.tensor(encoder.tokenizer.special.weightless)
    sparse, multi, history = train_heads(queries, passages, pairs, dropped, plan)
    save_heads(options.out, sparse, multi)
    trained = replace(
        encoder,
        spec=replace(encoder.spec, multi_dim=len(multi.weight)),
        signals=tuple(Signal),
        sparse_head=Linear(sparse.weight.half().float(), sparse.bias.half().float()),
        multi_head=Linear(multi.weight.half().float(), multi.bias.half().float()),
    )
    record: dict[str, Any] = {
        "command": "python -m m3core.train.heads " + " ".join(_shown(argument) for argument in arguments),
        "data_sha256": file_sha256(options.data),
        "multi_dim": len(multi.weight),
        "settings": asdict(plan),
        "losses": history,
        "dev": {},
    }
    for folder in options.dev:
        record["dev"][folder.name] = evaluate_folder(trained, folder, options.dev_queries)
        _say(f"{folder.name}: {record['dev'][folder.name]}")
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _states(encoder: Encoder, pairs: Sequence[Pair], plan: HeadTraining, kept: Path | None) -> tuple[States, States]:
    if kept is not None and kept.is_file():
        loaded = [States(**part) for part in torch.load(kept, weights_only=True)]
        if [len(part.offsets) - 1 for part in loaded] != [len(pairs)] * 2:
            raise UsageError(f"{kept} holds states of another sample", "name another file for --states")
        return loaded[0], loaded[1]
    queries = backbone_states(encoder, [pair.query for pair in pairs], "query", plan.query_tokens)
    passages = backbone_states(encoder, [pair.positive for pair in pairs], "passage", plan.passage_tokens)
    if kept is not None:
        torch.save([vars(queries), vars(passages)], kept)
    return queries, passages


def _shown(argument: str) -> str:
    # Paths of the machine that trained are nobody's business: keep the last two parts.
    return "/".join(Path(argument).parts[-2:]) if "/" in argument else argument


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
