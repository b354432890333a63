"""Several processes that train one model: what they tell each other. gloo on CPUs, started by torchrun.

Every process has the same parameters and the same batch, embeds its own share of the texts, and learns of the others'
embeddings; gradients of parameters are summed. So n processes take the step that one would take.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor, distributed

from m3core.errors import TrainingError
from m3core.train.signals import Embedded

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run, and which one this is. Alone, every method gives back what it is given."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, parts: Sequence[T]) -> list[T]:
        """This process's parts."""
        return list(parts[self.rank :: self.size])

    def gathered(self, own: Embedded) -> Embedded:
        """The texts of all processes, rank by rank, without gradient."""
        if self.size == 1:
            return own
        return Embedded(*(self._gather(getattr(own, field.name).detach()) for field in fields(own)))

    def _gather(self, own: Tensor) -> Tensor:
        """Tensors of all ranks one after another; they may differ in their first size only."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(sizes, torch.tensor([len(own)]))
        most = max(int(size) for size in sizes)
        sent = own.new_zeros(most, *own.shape[1:])
        sent[: len(own)] = own
        received = [torch.empty_like(sent) for _ in range(self.size)]
        distributed.all_gather(received, sent)
        return torch.cat([part[: int(size)] for part, size in zip(received, sizes, strict=True)])

    def sum_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Add up every parameter's gradient over the processes; one that got none here counts as zeros."""
        if self.size == 1:
            return
        trained = list(tensors)
        # What got no gradient anywhere keeps none: an optimiser then leaves it alone.
        somewhere = torch.tensor([tensor.grad is not None for tensor in trained], dtype=torch.int32)
        distributed.all_reduce(somewhere)
        moved = [tensor for tensor, count in zip(trained, somewhere.tolist(), strict=True) if count]
        grads = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in moved]
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        for tensor, part in zip(moved, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            tensor.grad = part.view_as(tensor).clone()

    def from_leader(self, *values: float) -> tuple[float, ...]:
        """What the leading process says: clocks and decisions must be the same everywhere."""
        if self.size == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(told, src=0)
        return tuple(told.tolist())


ALONE = Group()
_BACKEND = "gloo"


@contextmanager
def joined_group(environ: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """The group that torchrun started this process in; alone if it did not.

    Raises TrainingError if the processes do not find each other.
    """
    size = int(environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    try:
        distributed.init_process_group(_BACKEND)
    except (ValueError, RuntimeError, distributed.DistError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{size} processes do not find each other ({reason})", "start them by torchrun") from None
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
