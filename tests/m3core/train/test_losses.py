"""Training scores against loops, and the loss against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3core.train import losses

_SEED = st.integers(0, 10_000)


@given(_SEED, st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_lexical_scores_equal_dictionaries(seed: int, pairs: int, query_tokens: int, passage_tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query_ids = torch.randint(0, 9, (pairs, query_tokens), generator=generator)
    passage_ids = torch.randint(0, 9, (pairs, passage_tokens), generator=generator)
    query_weights = torch.relu(torch.randn(pairs, query_tokens, generator=generator))
    passage_weights = torch.relu(torch.randn(pairs, passage_tokens, generator=generator))
    dropped = torch.tensor([0, 1])

    def pooled(ids: torch.Tensor, weights: torch.Tensor) -> dict[int, float]:
        best: dict[int, float] = {}
        for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
            if token not in (0, 1):
                best[token] = max(best.get(token, 0.0), weight)
        return best

    scores = losses.lexical_scores(query_ids, query_weights, passage_ids, passage_weights, dropped)
    for i in range(pairs):
        for j in range(pairs):
            query, passage = pooled(query_ids[i], query_weights[i]), pooled(passage_ids[j], passage_weights[j])
            expected = sum(weight * passage.get(token, 0.0) for token, weight in query.items())
            assert float(scores[i, j]) == pytest.approx(expected, abs=1e-4)


@given(_SEED)
def test_max_sim_scores_ignore_padding_and_equal_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, passage = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 6, 5, generator=generator)
    query_lengths, passage_lengths = [4, 1, 2], [6, 3, 1]
    query_mask = torch.arange(4) < torch.tensor(query_lengths)[:, None]
    passage_mask = torch.arange(6) < torch.tensor(passage_lengths)[:, None]
    scores = losses.max_sim_scores(query, query_mask, passage, passage_mask)
    for i, used in enumerate(query_lengths):
        for j, length in enumerate(passage_lengths):
            best = [max(float(q @ p) for p in passage[j, :length]) for q in query[i, :used]]
            assert float(scores[i, j]) == pytest.approx(sum(best) / used, abs=1e-4)


def test_max_sim_scores_carry_the_gradient_of_the_met_vectors() -> None:
    query = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    passage = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]], requires_grad=True)
    losses.max_sim_scores(query, torch.ones(1, 1) > 0, passage, torch.ones(1, 2) > 0).sum().backward()
    assert query.grad is not None
    assert passage.grad is not None
    assert query.grad.tolist() == [[[pytest.approx(0.9), pytest.approx(0.1)]]]
    assert passage.grad.tolist() == [[[0.0, 0.0], [1.0, 0.0]]]


def test_info_nce_is_cross_entropy_over_tau_without_repeated_positives() -> None:
    scores = torch.tensor([[0.52, 0.50, 0.49], [0.47, 0.48, 0.46], [0.40, 0.43, 0.41]])
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 1] = True
    kept = [[0, 2], [0, 1, 2], [0, 1, 2]]
    expected = 0.0
    for i, columns in enumerate(kept):
        total = sum(math.exp(float(scores[i, j]) / 0.02) for j in columns)
        expected -= math.log(math.exp(float(scores[i, i]) / 0.02) / total) / 3
    assert float(losses.info_nce(scores / 0.02, same)) == pytest.approx(expected, rel=1e-4)


def test_distillation_is_the_cross_entropy_against_the_teacher_and_moves_the_student_only() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 6, generator=generator, requires_grad=True)
    teacher = torch.rand(3, 6, generator=generator, requires_grad=True)
    same = torch.zeros(3, 6, dtype=torch.bool)
    same[1, 4] = same[2, 0] = True
    expected = 0.0
    for i in range(3):
        columns = [j for j in range(6) if not same[i, j]]
        taught = [math.exp(float(teacher.detach()[i, j]) / 0.02) for j in columns]
        student = [math.exp(float(scores.detach()[i, j]) / 0.02) for j in columns]
        for t, s in zip(taught, student, strict=True):
            expected -= t / sum(taught) * math.log(s / sum(student)) / 3
    found = losses.distillation(scores / 0.02, teacher / 0.02, same)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)
    found.backward()
    assert teacher.grad is None
    assert scores.grad is not None
    assert scores.grad[1, 4] == scores.grad[2, 0] == 0
    assert bool(torch.isfinite(scores.grad).all())


def test_a_teacher_is_followed_within_the_group_and_only_where_it_spoke() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 6, generator=generator, requires_grad=True)
    teacher = torch.full((3, 6), torch.nan)
    groups = {0: {0: 4.0, 3: 2.5, 4: 1.0}, 2: {2: 0.5, 5: 0.25}}
    for row, told in groups.items():
        for column, value in told.items():
            teacher[row, column] = value
    expected = 0.0
    for row, told in groups.items():
        targets = [math.exp(value) for value in told.values()]
        student = [math.exp(float(scores.detach()[row, column]) / 0.02) for column in told]
        for t, s in zip(targets, student, strict=True):
            expected -= t / sum(targets) * math.log(s / sum(student)) / 3
    found = losses.group_distillation(scores / 0.02, teacher)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)
    found.backward()
    assert scores.grad is not None
    assert {(i, j) for i in range(3) for j in range(6) if scores.grad[i, j] != 0} <= {
        (row, column) for row, told in groups.items() for column in told
    }
    assert float(losses.group_distillation(scores, torch.full((3, 6), torch.nan))) == 0.0
