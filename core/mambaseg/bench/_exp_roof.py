"""The most that exp2 can do on this CPU: a loop over values that stay in the first-level cache."""

from __future__ import annotations

import numpy as np

from mambaseg.ops._simd import decay, load, native_width, splat, store
from mambaseg.ops._tiles import jit, zeros

__all__ = ["exp2_many"]

_VALUES = 4096


@jit
def _exp2_loop(w, n_rounds):  # type: ignore[no-untyped-def]  # kernels are typed by numba
    """Replace 4096 values x by ``2 ** -x``, over and over."""
    width = len(w)
    values = zeros(_VALUES)
    minus = splat(w, np.float32(-1.0))
    for _ in range(n_rounds):
        for i in range(0, _VALUES, width):
            store(values, i, decay(load(w, values, i), minus))
    return values[0]


def exp2_many(n_values: int) -> None:
    """Compute about `n_values` exponentials in this thread."""
    _exp2_loop((0,) * native_width(), n_values // _VALUES)
