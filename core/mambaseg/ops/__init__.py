"""The selective scan of Mamba, of sequences and of maps in four directions; several backends that agree.

Glossary (the letters of doi:10.48550/arXiv.2312.00752, kept in `ops` and `nets` only)

======================  ==================  ==================================================================
letter                  shape               meaning
======================  ==================  ==================================================================
``u``                   (batch, D, L)       input sequence, one row a channel; D channels, L steps
``delta``               (batch, D, L)       step size before bias and softplus; `dt` is what comes out of them
``A``                   (D, N)              decay of each of the N states of a channel, negative
``B``                   (batch, G, N, L)    how the input enters the states; one for each of G groups of channels
``C``                   (batch, G, N, L)    how the states are read; (batch, N, L) means one group
``D``                   (D,)                skip: ``D * u`` is added to the output
``z``                   (batch, D, L)       gate: the output is multiplied by ``z * sigmoid(z)``
``delta_bias``          (D,)                added to `delta` before the softplus
``h``                   (batch, D, N)       the states; `last state` is ``h`` after step L
======================  ==================  ==================================================================

One step: ``h = exp(dt * A) * h + dt * B * u``, then ``y`` is the sum of ``C * h`` over N. Channel d reads group
``d // (D / G)``.

Backends: ``reference`` (the loop as written, the truth), ``torch`` (chunked; any device), ``cpu`` (vector kernels
through numba), ``mamba_ssm`` (CUDA, where that package is installed). ``auto`` picks. A map is read in place by
``cpu`` and copied once for each direction by the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambaseg.ops.scan import available_backends, selective_scan, warm_up
    from mambaseg.ops.scan_2d import cross_selective_scan

__all__ = ["available_backends", "cross_selective_scan", "selective_scan", "warm_up"]


def __getattr__(name: str) -> Any:
    """Load the scan on first use, so that importing the package costs nothing."""
    if name == "cross_selective_scan":
        from mambaseg.ops.scan_2d import cross_selective_scan

        return cross_selective_scan
    if name in __all__:
        from mambaseg.ops import scan

        return getattr(scan, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
