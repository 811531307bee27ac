"""The scan that traced networks carry."""

import warnings

import pytest
import torch

from mambaseg import ops
from mambaseg.ops.scan_reference import reference_scan
from mambaseg.ops.scan_script import script_scan


def inputs(length: int, dtype: torch.dtype, groups: int = 2) -> tuple[torch.Tensor, ...]:
    batch, channels, states = 2, 6, 4
    generator = torch.Generator().manual_seed(length)
    u, delta, z = torch.randn(3, batch, channels, length, generator=generator, dtype=dtype)
    B, C = torch.randn(2, batch, groups, states, length, generator=generator, dtype=dtype)
    A = -torch.rand(channels, states, generator=generator, dtype=dtype)
    D, bias = torch.randn(2, channels, generator=generator, dtype=dtype)
    return u, delta, A, B, C, D, z, bias


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("is_full", [True, False])
def test_it_is_the_reference(length: int, is_full: bool) -> None:
    u, delta, A, B, C, D, z, bias = inputs(length, torch.float64)
    rest = (D, z, bias, True) if is_full else ()
    for ours, want in zip(script_scan(u, delta, A, B, C, *rest), reference_scan(u, delta, A, B, C, *rest),
                          strict=True):
        torch.testing.assert_close(ours, want, atol=1e-12, rtol=1e-12)


class Scan(torch.nn.Module):
    def forward(self, u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
                C: torch.Tensor) -> torch.Tensor:
        return ops.selective_scan(u, delta, A, B, C, delta_softplus=True)


def test_a_trace_runs_it_at_any_length() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks of shapes, and of TorchScript's age
        traced = torch.jit.trace(Scan(), inputs(5, torch.float32)[:5], check_trace=False)
        for length in (5, 9):
            given = inputs(length, torch.float32)[:5]
            want = ops.selective_scan(*given, delta_softplus=True, backend="reference")
            torch.testing.assert_close(traced(*given), want, atol=1e-5, rtol=1e-5)
