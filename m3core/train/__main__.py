"""Train m3-small, or another backbone, on one machine.

    python -m m3core.train --backbone FOLDER --data pairs.parquet --work FOLDER --out FOLDER [--dev DIR ...]

Writes `adapter.safetensors`, `sparse_linear.pt`, `colbert_linear.pt` and `training.json` (command, seed, data hash,
losses, figures) to --out. --work keeps what makes a run resumable: the frozen states and a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from m3core.encoder import Encoder
from m3core.errors import TrainingError
from m3core.evaluate.beir import score_folder
from m3core.evaluate.presets import best_weights
from m3core.heads import read_head, write_head
from m3core.layout import ADAPTER, MULTI_HEAD, SPARSE_HEAD
from m3core.train.adapter import Adapter
from m3core.train.curriculum import Curriculum, Portions, plan_curriculum, thinned
from m3core.train.joint import Trainer
from m3core.train.loop import save_whole
from m3core.train.losses import TAU
from m3core.train.pairs import Pair, file_sha256, read_pairs
from m3core.train.parameters import Parameters, Rates, trainable
from m3core.train.record import shown_command
from m3core.train.starts import idf_head, shared_meaning_head, text_means
from m3core.train.states import States, finished, frozen_states
from m3core.types import Signal

RECORD = "training.json"
_START_ROWS = 10_000


def main(arguments: Sequence[str]) -> None:
    """Entry point: see the module's docstring."""
    options = _parser().parse_args(arguments)
    portions = Portions(
        questions=options.questions, sentences=options.sentences, paragraphs=options.paragraphs, pivots=options.pivots
    )
    rates = replace(Rates(), adapter=options.adapter_rate, distil_after=options.distil_after)
    encoder = Encoder.load(options.backbone, signals=[Signal.DENSE])
    pairs = _uncut(read_pairs(options.data), encoder, options.passage_tokens)
    curriculum = plan_curriculum(pairs, portions, options.seed)
    _say(
        f"{len(curriculum.schedule):,} batches, {len(curriculum.queries.texts):,} queries, "
        f"{len(curriculum.passages.texts):,} passages"
    )
    options.work.mkdir(parents=True, exist_ok=True)
    frozen = len(encoder.backbone.layers) - options.depth
    queries, passages = _states(encoder, curriculum, frozen, options)
    if options.start is None:
        parameters = _start(encoder, curriculum, queries, passages, frozen, options)
    else:
        parameters = read_trained(options.start, options.depth, options.start_share)
    schedule = thinned(curriculum.schedule, options.crossing_share)[options.skip :][: options.steps]
    trainer = Trainer(encoder, parameters, queries, passages, schedule, rates, options.tau)
    trainer.run(_say, options.work / "checkpoint.pt")
    write_trained(options.out, trainer)
    record: dict[str, Any] = {
        "command": shown_command("python -m m3core.train", arguments),
        "data_sha256": file_sha256(options.data),
        "multi_dim": options.multi_dim,
        "adapter": {"depth": options.depth, "rank": options.rank, "scale": options.scale},
        "portions": asdict(portions),
        "rates": asdict(rates),
        "tau": options.tau,
        "losses": _every_25th(trainer.history),
        **_evaluate(trainer.trained(), options),
        "start": _record(options.start) if options.start is not None else None,
    }
    (options.out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _uncut(pairs: Sequence[Pair], encoder: Encoder, passage_tokens: int) -> list[Pair]:
    """The pairs whose passage is encoded whole: a question about a part that is cut off teaches to guess."""
    passages = list(dict.fromkeys(pair.positive for pair in pairs))
    _, cut = encoder.tokenizer.encode(passages, encoder.spec.prefix("passage"), passage_tokens)
    whole = {passage for passage, missing in zip(passages, cut, strict=True) if not missing}
    kept = [pair for pair in pairs if pair.positive in whole]
    _say(f"{len(pairs):,} pairs, {len(pairs) - len(kept):,} left out: their passages have over {passage_tokens} tokens")
    return kept


def _evaluate(encoder: Encoder, options: argparse.Namespace) -> dict[str, Any]:
    """Figures per set, and the presets that they suggest: `balanced` from --dev, `cross-lingual` from --crossing."""
    scored = {
        folder: score_folder(encoder, folder, options.dev_queries) for folder in [*options.dev, *options.crossing]
    }
    for folder, part in scored.items():
        _say(f"{folder.name}: {part.ndcg()}")
    presets = {
        name: asdict(best_weights([scored[folder] for folder in folders]))
        for name, folders in (("balanced", options.dev), ("cross-lingual", options.crossing))
        if folders
    }
    return {"dev": {folder.name: part.ndcg() for folder, part in scored.items()}, "presets": presets}


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m m3core.train", description=__doc__)
    parser.add_argument("--backbone", type=Path, required=True, help="model folder; its heads are not used")
    parser.add_argument("--data", type=Path, required=True, help="Parquet: query, positive, language, source, kind")
    parser.add_argument("--work", type=Path, required=True, help="states and checkpoint of this run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dev", type=Path, nargs="*", default=[], help="BEIR folders to report")
    parser.add_argument("--crossing", type=Path, nargs="*", default=[], help="the same, across languages")
    parser.add_argument("--dev-queries", type=int, default=300)
    parser.add_argument("--depth", type=int, default=6, help="last blocks that get an adapter; 0: heads only")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--scale", type=float, default=2.0, help="alpha / rank of LoRA")
    parser.add_argument("--multi-dim", type=int, default=128)
    parser.add_argument("--shrink", type=float, default=0.5, help="of the multi-vector head's start")
    parser.add_argument("--query-tokens", type=int, default=64)
    parser.add_argument("--passage-tokens", type=int, default=288)
    parser.add_argument("--questions", type=int, default=Portions.questions)
    parser.add_argument("--sentences", type=int, default=Portions.sentences)
    parser.add_argument("--paragraphs", type=int, default=Portions.paragraphs)
    parser.add_argument("--pivots", type=int, default=Portions.pivots)
    parser.add_argument("--start", type=Path, help="go on from what another run wrote, instead of from scratch")
    parser.add_argument(
        "--start-share", type=float, default=1.0, help="of what the adapter of --start changes; 0.5: half of it"
    )
    parser.add_argument("--skip", type=int, default=0, help="leave out the first batches, which --start has seen")
    parser.add_argument(
        "--crossing-share", type=float, default=1.0, help="of the batches in two languages, train on this share"
    )
    parser.add_argument("--steps", type=int, help="at most so many batches; default: all")
    parser.add_argument("--adapter-rate", type=float, default=Rates.adapter)
    parser.add_argument("--distil-after", type=float, default=Rates.distil_after, help="share of the steps; 1: never")
    parser.add_argument("--tau", type=float, default=TAU, help="temperature of dense and multi-vector scores")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _states(
    encoder: Encoder, curriculum: Curriculum, frozen: int, options: argparse.Namespace
) -> tuple[States, States]:
    kept = options.work / "states.pt"
    sizes = [len(curriculum.queries.texts), len(curriculum.passages.texts)]
    if kept.is_file():
        loaded = [States(**part) for part in torch.load(kept, weights_only=True)]
        if [len(part) for part in loaded] != sizes:
            raise TrainingError(f"{kept} holds states of another run", "name another folder for --work")
        return loaded[0], loaded[1]
    queries = frozen_states(encoder, curriculum.queries.texts, "query", options.query_tokens, frozen, _say)
    passages = frozen_states(encoder, curriculum.passages.texts, "passage", options.passage_tokens, frozen, _say)
    save_whole([vars(queries), vars(passages)], kept)
    return queries, passages


def _start(
    encoder: Encoder,
    curriculum: Curriculum,
    queries: States,
    passages: States,
    frozen: int,
    options: argparse.Namespace,
) -> Parameters[Adapter]:
    rng = np.random.default_rng(options.seed)
    rows = rng.permutation(len(curriculum.bitext_rows))[:_START_ROWS].tolist()
    asked = [curriculum.bitext_rows[i][0] for i in rows]
    answered = [curriculum.bitext_rows[i][1] for i in rows]
    left, right = (
        finished(states, texts, encoder.backbone, frozen) for states, texts in ((queries, asked), (passages, answered))
    )
    multi = shared_meaning_head(text_means(left), text_means(right), options.multi_dim, options.shrink)
    some = rng.permutation(len(passages))[:_START_ROWS].tolist()
    dropped = torch.tensor(encoder.tokenizer.special.weightless)
    sparse = idf_head(finished(passages, some, encoder.backbone, frozen), dropped, rng)
    generator = torch.Generator().manual_seed(options.seed)
    adapter = Adapter.fresh(encoder.backbone, options.depth, options.rank, options.scale, generator)
    return Parameters(adapter, trainable(sparse), trainable(multi))


def write_trained(folder: Path, trainer: Trainer) -> None:
    """Write adapter and heads in float16, the heads in BGE-M3's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = trainer.parameters
    for name, head in ((SPARSE_HEAD, parameters.sparse), (MULTI_HEAD, parameters.multi)):
        write_head(head, folder / name)
    halves = {name: tensor.detach().half().contiguous() for name, tensor in parameters.body.tensors.items()}
    save_file(halves, folder / ADAPTER, {"scale": str(parameters.body.scale)})


def read_trained(folder: Path, depth: int, share: float = 1.0) -> Parameters[Adapter]:
    """What `write_trained` wrote, trainable again, with this share of what its adapter changes.

    Raises ModelError if a head is missing or malformed.
    """
    with safe_open(folder / ADAPTER, "pt") as file:
        scale = float(file.metadata()["scale"])
        stored = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    shared = {name: tensor * share if name.endswith(".outer") else tensor for name, tensor in stored.items()}
    tensors = {name: tensor.requires_grad_() for name, tensor in shared.items()}
    sparse, multi = (trainable(read_head(folder, name)) for name in (SPARSE_HEAD, MULTI_HEAD))
    return Parameters(Adapter(depth, scale, tensors), sparse, multi)


def _every_25th(history: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [row for row in history if row["step"] % 25 == 0]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
