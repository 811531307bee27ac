"""One training in several processes, as `torchrun` starts them: who is the first, and sums over all of them.

Every process draws the same batches and takes its share of each: process r of n the samples r, r + n, r + 2 n, ... A
seed of its own for each sample makes its augmentation the same wherever it happens, so that the loss over the
iterations is that of a single process, but for the rounding of sums taken in another order. Batch norm, which only
VM-UNetV2 and U-Net v2 have, looks at each process's share alone.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mambaseg._errors import UserError
from mambaseg.machine import choose_device

__all__ = ["check_batch", "count", "first_before_others", "is_started_first", "joined", "own_device", "rank", "share",
           "sum_over_all", "total"]

_PATIENCE = datetime.timedelta(hours=12)  # the others wait while the first one prepares the cases and scores the model


def count() -> int:
    """Processes that train together; 1 where none were joined."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the first, which alone writes files and reports."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_started_first() -> bool:
    """Whether this is the process that talks to the user, also before and after `joined`."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Within it the processes that torchrun started know each other; does nothing in a process started alone.

    Parameters
    ----------
    device : as the user chose it; GPUs talk through NCCL, processors through gloo
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield
        return
    where = own_device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    distributed.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield
        distributed.barrier()  # whoever leaves while another still talks to it is ended by gloo
    finally:
        distributed.destroy_process_group()


def own_device(device: str) -> torch.device:
    """The device that a choice means for this process: each has a GPU of its own."""
    chosen = choose_device(device)
    local = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", int(local)) if local is not None and chosen == torch.device("cuda") else chosen


def check_batch(batch_size: int) -> None:
    """Raise UserError unless a batch can be shared in equal parts."""
    if batch_size % count():
        shares = [str(n) for n in range(2, batch_size + 1) if batch_size % n == 0]
        raise UserError(f"A batch of {batch_size} cannot be shared by {count()} processes in equal parts; start "
                        f"{' or '.join(shares) or 'one'} with torchrun --nproc-per-node, or choose --batch.")


@contextmanager
def first_before_others() -> Iterator[None]:
    """The block runs in the first process, and then in the others, which find what it wrote."""
    if rank() > 0:
        distributed.barrier()
    yield
    if rank() == 0 and count() > 1:
        distributed.barrier()


def share(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as it is trained: its gradients are means over all processes."""
    if count() == 1:
        return network
    ids = [device.index] if device.type == "cuda" else None
    # Weights without a gradient: those of the coarsest level, whose loss has no weight, and some that nothing reads.
    # Torch may warn that there are none; it looks at the outputs, not at the loss
    shared: nn.Module = DistributedDataParallel(network, device_ids=ids, find_unused_parameters=True)
    return shared


def sum_over_all(values: Tensor) -> Tensor:
    """Sum over the processes, which gradients flow through: for losses that look at the whole batch."""
    if count() == 1:
        return values
    add: Callable[[Tensor], Tensor] = _Sum.apply  # torch gives it no types
    return add(values)


class _Sum(torch.autograd.Function):
    """A sum over the processes; what any of them makes of it counts for all."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        """Sum of the values."""
        return total(values.clone())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Sum of the gradients."""
        return total(gradients[0].clone())


def total(values: Tensor) -> Tensor:
    """Sum over the processes of plain numbers, in place."""
    if count() > 1:
        distributed.all_reduce(values)
    return values
