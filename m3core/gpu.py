"""What a GPU needs besides the same code: one per process, copies that nobody waits for, a stream per thread.

On a CPU every function here gives back what it got.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from m3core.errors import UsageError

_own = threading.local()


@cache
def claimed_gpu() -> str:
    """A GPU for this process, `cuda:N`: the first that no other process on this machine has claimed.

    With more processes than GPUs they share them, by their numbers. The claim is a lock on a file that lasts as long as
    the process; each user has files of its own. Raises UsageError if such a file cannot be opened.
    """
    count = torch.cuda.device_count()
    for index in range(count):
        path = Path(tempfile.gettempdir()) / f"m3-gpu-{os.getuid()}-{index}.lock"
        try:
            # Not followed: in a folder that all may write to, somebody's link could point at a file of ours.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be locked ({error.strerror}): it says which GPU a process has",
                "remove it, or name a GPU: cuda:0",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return f"cuda:{index}"
    return f"cuda:{os.getpid() % count}"


def to_device(values: Tensor, device: str) -> Tensor:
    """`values` of the host on a device; a GPU is not waited for."""
    return values if device == "cpu" else values.pin_memory().to(device, non_blocking=True)


def to_host(values: Iterable[Tensor]) -> list[Tensor]:
    """Tensors of one device in the host's memory, all copied before the one wait for this thread's stream."""
    there = list(values)
    if not any(value.is_cuda for value in there):
        return there
    here = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in there]
    for target, value in zip(here, there, strict=True):
        target.copy_(value, non_blocking=True)
    torch.cuda.current_stream(there[0].device).synchronize()
    return here


def own_stream(device: str) -> AbstractContextManager[object]:
    """What this thread does in it goes to a stream of its own: its copies run beside another thread's products."""
    if device == "cpu":
        return nullcontext()
    streams: dict[str, torch.cuda.Stream] = _own.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return torch.cuda.stream(streams[device])
