"""Where the heads start: the sparse head from token rarity, the multi-vector head from what translations share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3core.heads import Linear
from m3core.train.states import States


def idf_head(states: States, dropped: Tensor, rng: np.random.Generator) -> Linear:
    """Start of the sparse head: ridge regression of token states on the token's inverse document frequency.

    The targets are scaled to mean 0.15, near what trained M3 heads give.
    """
    texts = len(states)
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
    return Linear(solution[None, :-1].clone(), solution[-1:].clone())


def text_means(states: States) -> Tensor:
    """Mean state of each text's own tokens, without prefix and specials, `[N, H]`."""
    bounds = zip(states.offsets[:-1].tolist(), states.offsets[1:].tolist(), strict=True)
    rows = [states.hidden[min(start + states.leading, stop - 2) : stop - 1] for start, stop in bounds]
    return torch.stack([row.float().mean(0) for row in rows])


def shared_meaning_head(left: Tensor, right: Tensor, width: int, shrink: float) -> Linear:
    """Start of the multi-vector head: what translations share, without what tells their languages apart.

    `left` and `right` `[N, H]` are means of N translation pairs. Linear discriminant analysis (Fisher 1936) with a pair
    as class: directions are scaled by the inverse root of the covariance within pairs, shrunk towards the identity, and
    the `width` of the largest covariance between pairs are kept. The mean of all is subtracted.
    """
    difference = left - right
    within = difference.T @ difference
    within = (1 - shrink) * within * (len(within) / within.trace()) + shrink * torch.eye(len(within))
    values, vectors = torch.linalg.eigh(within)
    whitening = vectors @ torch.diag(values**-0.5) @ vectors.T
    _, directions = torch.linalg.eigh(whitening @ torch.cov(((left + right) / 2).T) @ whitening)
    weight = directions[:, -width:].T @ whitening
    weight = weight / weight.norm(dim=1).mean()
    mean = torch.cat([left, right]).mean(0)
    return Linear(weight.contiguous(), -(weight @ mean))
