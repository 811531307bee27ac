"""The most that exp2 can do on this CPU: a loop over values that stay in the first-level cache."""

# numba gives the types of kernel arguments.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np
import torch

from mambaseg.ops._simd import decay, load, native_width, splat, store
from mambaseg.ops._tiles import jit

__all__ = ["exp2_many"]

_VALUES = 4096


@jit
def _exp2_loop(w, n_rounds, values):
    """Replace 4096 values x by ``2 ** -x``, over and over."""
    width = len(w)
    minus = splat(w, np.float32(-1.0))
    for _ in range(n_rounds):
        for i in range(0, _VALUES, width):
            store(values, i, decay(load(w, values, i), minus))


def exp2_many(n_values: int) -> None:
    """Compute about `n_values` exponentials in this thread."""
    values = torch.zeros(_VALUES)
    _exp2_loop((0,) * native_width(), n_values // _VALUES, values.data_ptr())
