"""The gradient of a whole batch in the memory of a part of it: cached gradients (Gao et al. 2021, arXiv:2101.06983).

The texts of a batch are split by tokens. All parts are embedded without gradient; the loss over the whole batch gives
the gradient of every embedding; then each part is embedded again, with gradient, and takes on its embeddings' share.
Negatives are the whole batch, as M3-Embedding's efficient batching wants it (section 3.3), and across processes the
batch is that of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from m3core.train.distributed import ALONE, Group
from m3core.train.objective import Columns, Objective
from m3core.train.signals import Embedded, Texts

# Token vectors that the late-interaction loss of some query rows keeps for its backward pass.
_ROW_BYTES = 256 << 20


@dataclass(frozen=True)
class Rows:
    """Score matrix of a batch: row i is text `queries[i]`, its columns are texts `columns`, the first ones the rows'
    own. `ignored` and `teacher` `[B, C]` as in objective.Columns.
    """

    queries: Sequence[int]
    columns: Sequence[int]
    ignored: Tensor
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Forward:
    """How texts, told by number, become signals: `below` gives the states under everything that learns, which are kept
    and not computed twice; `above` runs the blocks that learn, and the heads.
    """

    below: Callable[[Sequence[int]], Tensor]
    above: Callable[[Tensor, Sequence[int]], Embedded]
    lengths: Sequence[int]

    @torch.no_grad()
    def kept(self, texts: Sequence[int]) -> Tensor:
        """The states under everything that learns; they carry no gradient."""
        return self.below(texts)


@dataclass(frozen=True)
class Loss:
    """An objective on some texts, and whether it distils by now; `dropped` are ids without lexical weight."""

    objective: Objective
    dropped: Tensor
    distil: bool


def sub_batches(lengths: Sequence[int], texts: Sequence[int], tokens: int, least: int = 1) -> list[list[int]]:
    """Texts, longest first, cut into parts of at most `tokens` tokens (a longer text is alone), at least `least` of
    them if there are so many texts.
    """
    ordered = sorted(texts, key=lambda text: (-lengths[text], text))
    fair = -(-sum(lengths[text] for text in ordered) // least)
    limit = max(1, min(tokens, fair))
    parts: list[list[int]] = []
    room = 0
    for text in ordered:
        if not parts or room < lengths[text]:
            parts.append([])
            room = limit
        parts[-1].append(text)
        room -= lengths[text]
    return parts


def batch_gradient(
    forward: Forward, rows: Rows, loss: Loss, tokens: int, group: Group = ALONE
) -> tuple[float, dict[str, float]]:
    """Add the batch's gradient to the parameters of `forward`; returns the loss and its terms.

    With several processes each adds its own share: `Group.sum_gradients` makes the whole of it.
    """
    texts = list(dict.fromkeys([*rows.queries, *rows.columns]))
    parts = sub_batches(forward.lengths, texts, tokens, least=group.size)
    own = group.share(parts)
    # A process whose only part is in memory anyway has no need to run it twice.
    once = len(own) == 1
    kept = [forward.kept(part) for part in own]
    with torch.set_grad_enabled(once):
        outputs = [forward.above(states, part) for states, part in zip(kept, own, strict=True)]
    order = [text for rank in range(group.size) for part in parts[rank :: group.size] for text in part]
    whole = group.gathered(_joined(outputs, parts, forward)).leaf()
    value, terms = _gradient_of_embeddings(whole, order, rows, loss)
    starts = _shares(parts, own, forward, group)
    for number, part in enumerate(own):
        output = outputs[number]
        if not once:
            output = forward.above(kept[number], part)
        _give_back(output, whole, starts[number])
    return value, terms


def _joined(outputs: Sequence[Embedded], parts: Sequence[Sequence[int]], forward: Forward) -> Embedded:
    """This process's embeddings; with fewer parts than processes some have none, but must know their widths."""
    if outputs:
        return Embedded.joined(outputs)
    with torch.no_grad():
        like = forward.above(forward.kept(parts[-1][-1:]), parts[-1][-1:])
    return Embedded(like.dense[:0], like.ids[:0], like.weights[:0], like.vectors[:0], like.lengths[:0])


def _shares(
    parts: Sequence[Sequence[int]], own: Sequence[Sequence[int]], forward: Forward, group: Group
) -> list[tuple[int, int]]:
    """Where each own part lies among the gathered texts: its first text and its first token."""
    before = [part for rank in range(group.rank) for part in parts[rank :: group.size]]
    texts = [0, *accumulate(len(part) for part in [*before, *own])]
    tokens = [0, *accumulate(sum(forward.lengths[text] for text in part) for part in [*before, *own])]
    places = list(zip(texts, tokens, strict=True))
    return places[len(before) : len(before) + len(own)]


def _give_back(output: Embedded, whole: Embedded, start: tuple[int, int]) -> None:
    """Carry the gradient of a part's embeddings on to the parameters."""
    first, token = start
    texts, tokens = len(output.lengths), len(output.ids)
    cuts = (
        slice(first, first + texts),
        slice(token, token + tokens),
        slice(token - first, token - first + tokens - texts),
    )
    pairs = [
        (value, leaf.grad[cut])
        for value, leaf, cut in zip(output.values, whole.values, cuts, strict=True)
        if leaf.grad is not None and value.requires_grad
    ]
    if pairs:
        torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])


def _gradient_of_embeddings(
    whole: Embedded, order: Sequence[int], rows: Rows, loss: Loss
) -> tuple[float, dict[str, float]]:
    """The gradient of the loss by every embedding, into the leaves; some query rows at a time: rows are independent."""
    place = {text: index for index, text in enumerate(order)}
    queries = whole.padded([place[text] for text in rows.queries])
    passages = whole.padded([place[text] for text in rows.columns])
    # Leaves again: the way from them back to the packed embeddings is gone only once.
    asked, answers = _cut_off(queries), _cut_off(passages)
    count = len(rows.queries)
    total, terms = 0.0, dict[str, float]()
    for part in _row_blocks(queries.mask, passages):
        columns = Columns(rows.ignored[part], part.start, None if rows.teacher is None else rows.teacher[part])
        share = (part.stop - part.start) / count
        found = loss.objective.parts(asked.rows(part), answers, columns, loss.dropped)
        value = loss.objective.loss(found, distil=loss.distil) * share
        value.backward()
        total += float(value.detach())
        for name, term in found.items():
            terms[name] = terms.get(name, 0.0) + float(term.detach()) * share
    ways = [
        (made, leaf.grad)
        for before, after in ((queries, asked), (passages, answers))
        for made, leaf in zip(_values(before), _values(after), strict=True)
        if leaf.grad is not None
    ]
    torch.autograd.backward([made for made, _ in ways], [gradient for _, gradient in ways])
    return total, terms


def _values(texts: Texts) -> tuple[Tensor, Tensor, Tensor]:
    return texts.dense, texts.weights, texts.vectors


def _cut_off(texts: Texts) -> Texts:
    dense, weights, vectors = (value.detach().requires_grad_() for value in _values(texts))
    return Texts(texts.ids, texts.mask, dense, weights, vectors)


def _row_blocks(mask: Tensor, passages: Texts) -> list[slice]:
    """Query rows, some at a time: their token vectors times all passages stay within `_ROW_BYTES`."""
    texts, length, width = passages.vectors.shape
    each = texts * max(length, width) * passages.vectors.element_size()
    most = max(1, _ROW_BYTES // max(1, each * mask.shape[1]))
    return [slice(start, min(start + most, len(mask))) for start in range(0, len(mask), most)]
