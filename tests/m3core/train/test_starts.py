from __future__ import annotations

import numpy as np
import torch

from m3core.train.starts import idf_head, shared_meaning_head
from m3core.train.states import States


def test_the_start_keeps_what_translations_share_and_drops_what_tells_languages_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    meaning = torch.randn(400, 3, generator=generator)
    noise = 0.1 * torch.randn(2, 400, 6, generator=generator)
    left, right = torch.zeros(400, 6), torch.zeros(400, 6)
    left[:, :3], right[:, :3] = meaning, meaning
    # Direction 5 is the language: large, and different within every pair.
    left[:, 5], right[:, 5] = 4.0, -4.0
    left, right = left + noise[0], right + noise[1]
    head = shared_meaning_head(left, right, 3, shrink=0.1)
    assert head.weight[:, 5].abs().max() < 0.1 * head.weight[:, :3].abs().max()
    centre = (head(left) + head(right)).mean(0)
    assert centre.abs().max() < 1e-3
    same = torch.nn.functional.cosine_similarity(head(left), head(right)).mean()
    assert same > 0.95


def test_the_sparse_head_starts_with_rare_tokens_heavy() -> None:
    generator = torch.Generator().manual_seed(0)
    # Token 7 is in every text, tokens 10.. in one each; a token's state is its own direction.
    ids = torch.tensor([token for text in range(30) for token in (0, 7, 10 + text % 15)])
    table = torch.randn(40, 48, generator=generator)
    states = States(table[ids].half(), ids, torch.arange(31) * 3, leading=1)
    head = idf_head(states, torch.tensor([0]), np.random.default_rng(0))
    weights = torch.relu(head(table)).squeeze(-1)
    assert weights[7] < 0.5 * weights[10:25].min()
