"""Joint training on a tiny backbone: losses against loops over the encoder's own vectors, resume, what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from m3core import Encoder, scoring
from m3core.errors import TrainingError
from m3core.train.__main__ import main, read_trained, write_trained
from m3core.train.adapter import Adapter, merged
from m3core.train.joint import Batch, Trainer, equally_right
from m3core.train.parameters import Parameters, Rates, trainable
from m3core.train.states import finished, frozen_states

_QUERIES = ["the key", "night train", "laboratory desk"]
_PASSAGES = ["the key is at the front desk", "the night train", "a laboratory", "Schlüssel", "Nachtzug", "Labor"]


def _quiet(line: str) -> None:
    del line


def _trainer(encoder: Encoder, depth: int, schedule: Sequence[Batch], seed: int = 0) -> Trainer:
    generator = torch.Generator().manual_seed(seed)
    adapter = Adapter.fresh(encoder.backbone, depth, rank=4, scale=2.0, generator=generator)
    for name, tensor in adapter.tensors.items():
        if name.endswith("outer"):
            tensor.data.normal_(0, 0.1, generator=generator)
    assert encoder.sparse_head is not None
    assert encoder.multi_head is not None
    heads = trainable(encoder.sparse_head), trainable(encoder.multi_head)
    frozen = len(encoder.backbone.layers) - depth
    queries = frozen_states(encoder, _QUERIES, "query", 64, frozen, _quiet)
    passages = frozen_states(encoder, _PASSAGES, "passage", 64, frozen, _quiet)
    return Trainer(encoder, Parameters(adapter, *heads), queries, passages, schedule, Rates())


def _log_softmax(logits: Sequence[float]) -> list[float]:
    total = max(logits) + math.log(sum(math.exp(value - max(logits)) for value in logits))
    return [value - total for value in logits]


@pytest.mark.parametrize("batch", [Batch([0, 1, 2], [0, 1, 2]), Batch([0, 1, 2], [0, 1, 1], [3, 4, 5])])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_losses_equal_loops_over_what_the_trained_encoder_gives(tiny_model: Path, batch: Batch, depth: int) -> None:
    trainer = _trainer(Encoder.load(tiny_model), depth, [batch])
    found = {name: float(value.detach()) for name, value in trainer.losses(batch).items()}
    encoder = trainer.trained()
    columns = [*batch.positives, *batch.own_language]
    asked = [encoder.encode_query(_QUERIES[i]) for i in batch.queries]
    passages = encoder.encode([_PASSAGES[i] for i in columns])
    assert passages.dense is not None
    assert passages.lexical is not None
    assert passages.multi is not None
    expected = dict.fromkeys(found, 0.0)
    for row, query in enumerate(asked):
        assert query.dense is not None
        assert query.lexical_ids is not None
        assert query.lexical_weights is not None
        assert query.multi is not None
        own = {batch.positives[row], *batch.own_language[row : row + 1]}
        kept = [column for column, text in enumerate(columns) if column == row or text not in own]
        logits: dict[str, list[float]] = {name: [] for name in ("dense", "lexical", "multi", "sum")}
        for column in kept:
            dense = float(query.dense @ passages.dense[column])
            lexical = scoring.lexical(query.lexical_ids, query.lexical_weights, *passages.lexical.row(column))
            multi = scoring.max_sim(query.multi, passages.multi.row(column))
            shared_words = 0.0 if batch.own_language else 0.3 * lexical
            values = {"dense": dense, "lexical": lexical, "multi": multi, "sum": dense + shared_words + multi}
            for name, value in values.items():
                logits[name].append(value / 0.02)
        logs = {name: _log_softmax(values) for name, values in logits.items()}
        for name in logits:
            expected[name] -= logs[name][kept.index(row)] / len(asked)
        for name in ("dense", "lexical", "multi"):
            crossed = sum(math.exp(t) * s for t, s in zip(logs["sum"], logs[name], strict=True))
            expected[f"{name}_taught"] -= crossed / len(asked)
    # The encoder's adapter and heads are rounded to float16 and the frozen states are too; tau multiplies by 50.
    assert found == pytest.approx(expected, abs=0.1, rel=0.02)


def test_other_copies_of_the_right_passage_are_no_wrong_answers() -> None:
    mask = equally_right(Batch([0, 1, 2], [7, 8, 7], [1, 2, 1]))
    assert mask.int().tolist() == [[0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 1]]


def test_states_after_the_other_blocks_are_the_whole_backbones(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model)
    halfway = frozen_states(encoder, _PASSAGES, "passage", 64, 1, _quiet)
    done = finished(halfway, [4, 0], encoder.backbone, 1)
    rows, _ = encoder.tokenizer.encode([_PASSAGES[4], _PASSAGES[0]], encoder.spec.prefix("passage"), 64)
    for row, place in zip(rows, done.rows([0, 1]), strict=True):
        assert done.ids[place].tolist() == row
        states = encoder.backbone(torch.tensor(row), [len(row)])
        torch.testing.assert_close(done.hidden[place], states, atol=5e-3, rtol=0)


def test_a_run_that_was_cut_off_goes_on_to_the_same_losses(tiny_model: Path, tmp_path: Path) -> None:
    schedule = [Batch([0, 1, 2], [0, 1, 2]), Batch([0, 1, 2], [0, 1, 2], [3, 4, 5])] * 6
    whole = _trainer(Encoder.load(tiny_model), 1, schedule)
    whole.run(_quiet)
    cut = _trainer(Encoder.load(tiny_model), 1, schedule)

    class CutOffError(Exception):
        pass

    losses, calls = cut.losses, []

    def dies_at_the_eighth(batch: Batch) -> dict[str, torch.Tensor]:
        calls.append(batch)
        if len(calls) == 8:
            raise CutOffError
        return losses(batch)

    cut.losses = dies_at_the_eighth  # type: ignore[method-assign]
    with pytest.raises(CutOffError):
        cut.run(_quiet, tmp_path / "checkpoint.pt", every=0.0)
    resumed = _trainer(Encoder.load(tiny_model), 1, schedule, seed=5)
    resumed.run(_quiet, tmp_path / "checkpoint.pt")
    assert resumed.history == whole.history


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_texts(tiny_model: Path) -> None:
    trainer = _trainer(Encoder.load(tiny_model), 1, [Batch([0, 1, 2], [0, 1, 2])])
    trainer.parameters.multi.weight.data[0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"step 0: the loss is nan on queries \[0, 1, 2\]"):
        trainer.run(_quiet)


def test_the_command_trains_and_writes_what_makes_a_model(pairs_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "corpus.jsonl").write_text('{"_id": "a", "text": "the key"}\n{"_id": "b", "text": "night train"}\n')
    (dev / "queries.jsonl").write_text('{"_id": "q", "text": "key"}\n')
    (dev / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    out = tmp_path / "out"
    arguments = ["--backbone", str(tiny_model), "--data", str(pairs_file), "--work", str(tmp_path / "work")]
    arguments += ["--out", str(out), "--depth", "1", "--rank", "4", "--multi-dim", "16", "--adapter-rate", "1e-3"]
    main([*arguments, "--dev", str(dev), "--crossing", str(dev)])
    record = json.loads((out / "training.json").read_text())
    assert record["multi_dim"] == 16
    assert set(record["presets"]) == {"balanced", "cross-lingual"}
    assert set(record["dev"]["dev"]) == {"dense", "lexical", "multi", "fused"}
    assert str(tmp_path.parent) not in record["command"]
    names = {path.name for path in out.iterdir()}
    assert names == {"adapter.safetensors", "sparse_linear.pt", "colbert_linear.pt", "training.json"}
    assert record["start"] is None

    more, extra = tmp_path / "more", ["--start", str(out), "--skip", "2", "--steps", "3"]
    main([*arguments, "--work", str(tmp_path / "work2"), "--out", str(more), *extra])
    second = json.loads((more / "training.json").read_text())
    assert second["start"] == record
    before, after = (load_file(folder / "adapter.safetensors") for folder in (out, more))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(TrainingError, match="another run"):
        main([*arguments, "--questions", "40"])


def test_a_start_can_take_a_share_of_what_an_adapter_changes(tiny_model: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(tiny_model)
    write_trained(tmp_path, _trainer(encoder, 1, []))
    plain = encoder.backbone.layers[-1].up.weight

    def change(share: float) -> torch.Tensor:
        started = read_trained(tmp_path, 1, share)
        assert all(tensor.is_leaf and tensor.requires_grad for tensor in started.tensors().values())
        return merged(started.body.on(encoder.backbone)).layers[-1].up.weight - plain

    assert change(1.0).abs().max() > 0.01
    torch.testing.assert_close(change(0.5), change(1.0) / 2)


def test_training_lowers_the_loss(tiny_model: Path) -> None:
    schedule = [Batch([0, 1, 2], [0, 1, 2]), Batch([0, 1, 2], [0, 1, 2], [3, 4, 5])] * 40
    trainer = _trainer(Encoder.load(tiny_model), 2, schedule)
    trainer.run(_quiet)
    sums = np.array([row["sum"] for row in trainer.history])
    assert sums[-10:].mean() < 0.7 * sums[:10].mean()


def test_signals_that_were_not_trained_are_not_made_up(tiny_model: Path) -> None:
    trainer = _trainer(Encoder.load(tiny_model), 0, [])
    plain = Encoder.load(tiny_model)
    vectors = trainer.trained().encode(_PASSAGES).dense
    assert vectors is not None
    assert np.array_equal(vectors, plain.encode(_PASSAGES).dense)
    assert replace(trainer.parameters.body).tensors == {}
