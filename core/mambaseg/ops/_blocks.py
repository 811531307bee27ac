"""How tensors with a value for each channel are cut into blocks for the CPU kernels, and what kernels are handed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mambaseg.ops._tiles import TILE

__all__ = ["BACKWARD_TASKS", "Blocks", "addresses", "n_chunks"]

BACKWARD_TASKS = 8  # of a batch or more; fixed, not the number of threads, so that sums do not depend on the machine

_CHUNK_STATES = 1 << 18  # states (channels * steps * N) worth handing to a thread: about 0.05 ms


@dataclass(frozen=True)
class Blocks:
    """Blocks of `width` neighbouring channels; none crosses a group, the last of a group is filled up."""

    groups: int
    per_group: int  # channels of a group
    width: int

    @property
    def of_group(self) -> int:
        """Blocks of a group."""
        return -(-self.per_group // self.width)

    @property
    def lanes(self) -> tuple[int, ...]:
        """`w` of the kernels."""
        return (0,) * self.width

    def pack(self, x: Tensor) -> Tensor:
        """(..., D, N) as (..., block, N, lane), zeros in the lanes after a group's last channel."""
        x = x.unflatten(-2, (self.groups, self.per_group))
        x = functional.pad(x, (0, 0, 0, self.of_group * self.width - self.per_group))
        x = x.unflatten(-2, (self.of_group, self.width)).flatten(-4, -3)
        return x.transpose(-1, -2).contiguous()

    def unpack(self, x: Tensor) -> Tensor:
        """The way back of `pack`."""
        x = x.transpose(-1, -2).unflatten(-3, (self.groups, self.of_group)).flatten(-3, -2)
        return x[..., : self.per_group, :].flatten(-3, -2)

    def pack_vector(self, x: Tensor | None) -> Tensor:
        """(D,) or None (zeros) as (block, lane)."""
        if x is None:
            return torch.zeros(self.groups * self.of_group, self.width, dtype=torch.float32, device="cpu")
        return self.pack(x[:, None])[:, 0]

    def scratch(self, n_tiles: int, n_vectors: int) -> Tensor:
        """Working memory of one thread: tiles, then vectors of `width` floats."""
        return torch.empty((n_tiles * (TILE + 1) + n_vectors) * self.width, dtype=torch.float32, device="cpu")


def addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    """Where the tensors lie; the caller keeps them alive. 0 for None, which kernels do not touch."""
    return tuple(0 if x is None else x.data_ptr() for x in tensors)


def n_chunks(n_tasks: int, n_scanned: int) -> int:
    """Ranges to share out for so many states in all: 1 if they are too few for threads to pay."""
    chunks = n_scanned // _CHUNK_STATES
    return min(n_tasks, chunks) if chunks >= 4 else 1
