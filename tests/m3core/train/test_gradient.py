"""One step: losses against loops, and the gradient of a split batch against that of the whole one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3core import Encoder, scoring
from m3core.model import Backbone
from m3core.train import gradient
from m3core.train.finetune import Finetune, Plan
from m3core.train.gradient import sub_batches
from m3core.train.modes import Lora, Mode
from m3core.train.objective import Objective
from m3core.train.schedule import Batching
from m3core.train.states import states_of_ids
from m3core.types import ALL_SIGNALS, Signal
from tests.m3core.train.parts import assert_same, examples_of, gradients, made_rows, made_run

# One bucket, so that the whole batch meets.
_WHOLE = Batching(rows=12, negatives=2, tokens=1 << 20, part_tokens=1 << 20)
_SPLIT = Batching(rows=12, negatives=2, tokens=1 << 20, part_tokens=150)


def _plan(batching: Batching, **changes: object) -> Plan:
    return Plan(batching=batching, seed=3, teacher=True, **changes)  # type: ignore[arg-type]


def _log_softmax(logits: Sequence[float]) -> list[float]:
    total = max(logits) + math.log(sum(math.exp(value - max(logits)) for value in logits))
    return [value - total for value in logits]


@pytest.mark.parametrize("mode", ["heads", "lora", "full"])
def test_a_split_batch_has_the_gradient_of_the_whole_one(tiny_model: Path, mode: Mode) -> None:
    rows = made_rows(24, scores=True)
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        whole = gradients(made_run(tiny_model, mode, _plan(_WHOLE), rows, dtype=dtype))
        split = gradients(made_run(tiny_model, mode, _plan(_SPLIT), rows, dtype=dtype))
        assert split[0] == pytest.approx(whole[0], rel=limit)
        assert_same(split[1], whole[1], limit)
        if mode == "full":
            used = {name for name in whole[1] if float(whole[1][name].norm()) > 0}
            # A shift of all keys changes no attention: nothing else is without a gradient.
            assert len(used) == len(whole[1])


@pytest.mark.parametrize("depth", [1, 2])
def test_the_gradient_is_that_of_plain_autograd(tiny_model: Path, depth: int) -> None:
    """Against one graph from the parameters to the loss, with no embedding cut off in between."""
    rows = made_rows(24, scores=True)
    run = made_run(tiny_model, "lora", _plan(_SPLIT), rows, dtype=torch.float64, lora=Lora(depth, rank=4))
    loss, found = gradients(run)
    tensors = run.parameters.tensors()
    for tensor in tensors.values():
        tensor.grad = None
    expected, _ = _naive(run)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(float(expected.detach()), rel=1e-9)
    assert_same(found, {name: part.grad for name, part in tensors.items() if part.grad is not None}, 1e-9)


def test_frozen_blocks_run_once_a_step(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tiny_model, "lora", _plan(_SPLIT), made_rows(24, scores=True), lora=Lora(1, rank=4))
    ran: list[tuple[int | None, int]] = []

    def counted(self: Backbone, states: torch.Tensor, lengths: Sequence[int], part: slice) -> torch.Tensor:
        ran.append((part.start, sum(lengths)))
        return blocks(self, states, lengths, part)

    blocks = Backbone.blocks
    monkeypatch.setattr(Backbone, "blocks", counted)
    gradients(run)
    below, above = (sum(tokens for start, tokens in ran if start == first) for first in (None, 1))
    assert above == 2 * below > 0


def test_states_that_runs_share_give_the_same_step(tiny_model: Path) -> None:
    rows = made_rows(24, scores=True)
    run = made_run(tiny_model, "lora", _plan(_SPLIT), rows, lora=Lora(1, rank=4))
    kept = states_of_ids(run.encoder.backbone, run._token_ids, 1, 1, "", lambda line: None)
    shared = Finetune(run.encoder, run.parameters, examples_of(run.encoder, rows), _plan(_SPLIT), kept=kept)
    loss, found = gradients(run)
    close, near = gradients(shared)
    # They are kept in float16.
    assert close == pytest.approx(loss, rel=0.01)
    assert_same(near, found, 0.05)


def test_query_rows_in_blocks_make_no_difference(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made_rows(24, scores=True)
    whole = gradients(made_run(tiny_model, "lora", _plan(_WHOLE), rows, dtype=torch.float64))
    monkeypatch.setattr(gradient, "_ROW_BYTES", 1)
    blocks = gradients(made_run(tiny_model, "lora", _plan(_WHOLE), rows, dtype=torch.float64))
    assert blocks[0] == pytest.approx(whole[0], rel=1e-9)
    assert_same(blocks[1], whole[1], 1e-9)


@pytest.mark.parametrize("signal", [None, *ALL_SIGNALS])
@pytest.mark.parametrize(("teacher", "tau"), [(False, 0.02), (True, 0.02), (True, 0.01)])
def test_losses_equal_loops_over_the_encoders_own_vectors(
    tiny_model: Path, signal: Signal | None, teacher: bool, tau: float
) -> None:
    rows = made_rows(9, scores=True)
    objective = Objective(tau=tau) if signal is None else Objective((signal,), tau)
    plan = Plan(batching=_WHOLE, seed=1, teacher=teacher, objective=objective)
    # Heads as they are stored, so that the encoder has exactly the trained values.
    run = made_run(tiny_model, "heads", plan, rows)
    for share in (0.0, 1.0):
        step = run.learn(0, share)
        expected = _looped(run, teacher=teacher, tau=tau)
        names = ("dense", "lexical", "multi", "sum") if signal is None else (signal.value,)
        terms = {name: expected[name] + (expected[f"{name}_teacher"] if teacher else 0.0) for name in names}
        if signal is not None:
            loss = terms[signal.value]
        else:
            loss = (terms["dense"] + 0.1 * terms["lexical"] + terms["multi"] + terms["sum"]) / 4
            if share:
                taught = expected["dense_taught"] + 0.1 * expected["lexical_taught"] + expected["multi_taught"]
                loss = (loss + taught / 3) / 2
        assert step.loss == pytest.approx(loss, rel=2e-3)
        for name in names:
            assert step.row[name] == pytest.approx(expected[name], rel=2e-3, abs=2e-3)


def _looped(run: Finetune, *, teacher: bool, tau: float) -> dict[str, float]:
    """Every term of the first batch from the vectors of `Encoder.encode`, one pair at a time; `tau` is not lexical."""
    batch = run.schedule.batch(0)
    chosen = [run._examples[i] for i in batch.examples]
    texts: dict[int, str] = {}
    for one in chosen:
        texts |= dict(zip(one.positives, one.row.positives, strict=True))
        texts |= dict(zip(one.negatives, one.row.negatives, strict=True))
    encoder = run.trained()
    columns = batch.columns
    asked = [encoder.encode_query(one.row.query) for one in chosen]
    passages = encoder.encode([texts[column] for column in columns])
    assert passages.dense is not None
    assert passages.lexical is not None
    assert passages.multi is not None
    terms: dict[str, float] = {}
    first_negative = len(chosen)
    for row, (one, query) in enumerate(zip(chosen, asked, strict=True)):
        group = [row, *range(first_negative, first_negative + len(batch.negatives[row]))]
        first_negative = group[-1] + 1 if len(group) > 1 else first_negative
        kept = [j for j, column in enumerate(columns) if j == row or texts[column] not in one.row.positives]
        scores: dict[str, list[float]] = {"dense": [], "lexical": [], "multi": [], "sum": []}
        for j in range(len(columns)):
            assert query.dense is not None
            assert query.lexical_ids is not None
            assert query.lexical_weights is not None
            assert query.multi is not None
            dense = float(query.dense @ passages.dense[j]) / tau
            lexical = scoring.lexical(query.lexical_ids, query.lexical_weights, *passages.lexical.row(j)) / 0.02
            multi = scoring.max_sim(query.multi, passages.multi.row(j)) / tau
            for name, value in zip(scores, (dense, lexical, multi, dense + 0.3 * lexical + multi), strict=True):
                scores[name].append(value)
        logs = {
            name: dict(zip(kept, _log_softmax([values[j] for j in kept]), strict=True))
            for name, values in scores.items()
        }
        told = dict(
            zip(one.row.positives + one.row.negatives, one.row.positive_scores + one.row.negative_scores, strict=True)
        )
        targets = [math.exp(value) for value in _log_softmax([told[texts[columns[j]]] for j in group])]
        for name in scores:
            within = _log_softmax([scores[name][j] for j in group])
            crossed = sum(math.exp(logs["sum"][j]) * logs[name][j] for j in kept)
            values = {
                name: -logs[name][row],
                f"{name}_taught": -crossed,
                f"{name}_teacher": -sum(t * s for t, s in zip(targets, within, strict=True)) if teacher else 0.0,
            }
            for key, value in values.items():
                terms[key] = terms.get(key, 0.0) + value / len(chosen)
    return terms


def _naive(run: Finetune) -> tuple[torch.Tensor, None]:
    """The loss of the first batch as one graph, by the objective on the embeddings of a single forward pass."""
    from m3core.train.objective import Columns
    from m3core.train.schedule import rows_of

    rows = rows_of(run.schedule.batch(0), run._examples, teacher=True)
    texts = sorted({*rows.queries, *rows.columns}, key=lambda text: -len(run._token_ids[text]))
    embedded = run._above(run._below(texts), texts)
    query = embedded.padded([texts.index(text) for text in rows.queries])
    passage = embedded.padded([texts.index(text) for text in rows.columns])
    objective = Objective()
    parts = objective.parts(query, passage, Columns(rows.ignored, 0, rows.teacher), run._dropped)
    return objective.loss(parts, distil=True), None


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60), st.integers(1, 4))
def test_parts_hold_each_text_once_longest_first_within_the_budget(lengths: list[int], tokens: int, least: int) -> None:
    parts = sub_batches(lengths, range(len(lengths)), tokens, least)
    flat = [text for part in parts for text in part]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[text] for text in flat] == sorted(lengths, reverse=True)
    assert all(sum(lengths[text] for text in part) <= tokens or len(part) == 1 for part in parts)
    if len(set(lengths)) == 1:
        assert len(parts) >= min(least, len(lengths))


def test_the_encoder_of_a_run_is_what_it_trains(tiny_model: Path) -> None:
    """Embeddings inside a step and those of the encoder that is written differ by the rounding of the heads alone."""
    run = made_run(tiny_model, "full", _plan(_WHOLE), made_rows(6))
    texts = [one.positives[0] for one in run._examples]
    ordered = sorted(set(texts), key=lambda text: -len(run._token_ids[text]))
    inside = run._above(run._below(ordered), ordered).padded([ordered.index(text) for text in texts])
    outside = run.trained().encode([one.row.positives[0] for one in run._examples])
    assert outside.dense is not None
    np.testing.assert_allclose(inside.dense.detach().numpy(), outside.dense, atol=2e-6)
    assert isinstance(run.encoder, Encoder)
