"""Batched scores and InfoNCE for training heads. Shapes: B queries, C passages, Tq and Tp padded tokens, D' vector
width.

Every softmax is over logits, which are score / tau (M3-Embedding, equation 1, and FlagEmbedding's code).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TAU = 0.02
# s_ens = s_d + 0.3 s_l + s_m and L = (L_d + 0.1 L_l + L_m + L_ens) / 4 (section 3.3 and FlagEmbedding).
LEXICAL_IN_SUM = 0.3
LEXICAL_LOSS = 0.1


def lexical_scores(
    query_ids: Tensor, query_weights: Tensor, passage_ids: Tensor, passage_weights: Tensor, dropped: Tensor
) -> Tensor:
    """Lexical scores of all query-passage pairs, `[B, C]`, on the queries' own vocabulary.

    Ids `[B, T]`; weights `[B, T]` after relu, 0 at padding. `dropped` `[K]` are ids that carry no weight.
    """
    vocabulary = torch.unique(query_ids)
    vocabulary = vocabulary[~torch.isin(vocabulary, dropped)]
    if not len(vocabulary):
        # Products with nothing: zeros that still have a gradient, so that a loss of these scores alone can be taken.
        return query_weights[:, :0] @ passage_weights[:, :0].T
    return (
        _on_vocabulary(query_ids, query_weights, vocabulary)
        @ _on_vocabulary(passage_ids, passage_weights, vocabulary).T
    )


def _on_vocabulary(ids: Tensor, weights: Tensor, vocabulary: Tensor) -> Tensor:
    place = torch.searchsorted(vocabulary, ids).clamp_(max=len(vocabulary) - 1)
    known = vocabulary[place] == ids
    columns = torch.where(known, place, len(vocabulary))
    table = weights.new_zeros(ids.shape[0], len(vocabulary) + 1)
    return table.scatter_reduce(1, columns, weights, "amax", include_self=True)[:, :-1]


def max_sim_scores(query: Tensor, query_mask: Tensor, passage: Tensor, passage_mask: Tensor) -> Tensor:
    """Late interaction of all pairs, `[B, C]`: mean over query vectors of the largest dot product.

    `query` `[B, Tq, D']`, `passage` `[C, Tp, D']`, masks true at real tokens. The argmax carries no gradient, so the
    backward pass needs only the gathered products.
    """
    owner = query_mask.nonzero()[:, 0]
    packed = query[query_mask]  # [P, D']: queries are short, padding them would triple the work
    texts, length, width = passage.shape
    with torch.no_grad():
        similarity = (packed @ passage.reshape(-1, width).T).view(-1, texts, length)
        best = similarity.masked_fill_(~passage_mask, -torch.inf).argmax(dim=-1)
    rows = (best + torch.arange(texts) * length).view(-1)
    met = passage.reshape(-1, width).index_select(0, rows).view(len(packed), texts, width)
    sums = query.new_zeros(len(query), texts).index_add(0, owner, (packed[:, None] * met).sum(-1))
    return sums / query_mask.sum(-1).clamp(min=1)[:, None]


def info_nce(logits: Tensor, same: Tensor, first: int = 0) -> Tensor:
    """Cross entropy of each row's own column over all columns of `[B, C]`; row i's own column is first + i.

    `same[i, j]` marks other columns whose passage equals one of the row's positives: they are no negatives.
    """
    masked = logits.masked_fill(same, -torch.inf)
    return functional.cross_entropy(masked, first + torch.arange(len(logits), device=logits.device))


def distillation(logits: Tensor, teacher: Tensor, same: Tensor) -> Tensor:
    """Self-knowledge distillation (M3-Embedding, section 3.3): cross entropy of softmax(logits) against
    softmax(teacher), the teacher's logits without gradient; shapes and `same` as in `info_nce`.
    """
    target = functional.softmax(teacher.detach().masked_fill(same, -torch.inf), dim=-1)
    student = functional.log_softmax(logits.masked_fill(same, -torch.inf), dim=-1)
    return -(target * student.masked_fill(same, 0.0)).sum(-1).mean()


def group_distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy of softmax(logits) against softmax(teacher) over each row's own group of passages, mean over all B
    rows (FlagEmbedding's `kl_div`: the teacher's scores have no temperature).

    `teacher` `[B, C]` holds NaN outside a row's group; a row without any teacher score counts 0.
    """
    known = ~torch.isnan(teacher)
    taught = known.any(dim=-1)
    if not taught.any():
        return logits.new_zeros(())
    outside = ~known[taught]
    target = functional.softmax(teacher[taught].masked_fill(outside, -torch.inf), dim=-1)
    student = functional.log_softmax(logits[taught].masked_fill(outside, -torch.inf), dim=-1)
    return -(target * student.masked_fill(outside, 0.0)).sum() / len(logits)
