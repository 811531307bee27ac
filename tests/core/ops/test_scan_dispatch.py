"""Which backend runs, and what is said when it cannot."""

import subprocess
import sys
import types

import pytest
import torch

from mambaseg import _errors
from mambaseg.ops import available_backends, scan, scan_numba, selective_scan, warm_up
from mambaseg.ops.scan_mamba_ssm import mamba_ssm_scan
from mambaseg.ops.scan_reference import reference_scan


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return {
        "u": torch.randn(1, 6, 20),
        "delta": torch.rand(1, 6, 20),
        "A": -torch.rand(6, 4),
        "B": torch.randn(1, 2, 4, 20),
        "C": torch.randn(1, 2, 4, 20),
    }


@pytest.fixture
def calls(monkeypatch):
    """Names of the CPU backends that ran."""
    names = []
    for module, function in ((scan, "torch_scan"), (scan, "reference_scan"), (scan_numba, "numba_scan")):
        original = getattr(module, function)

        def spy(*args, original=original, function=function):
            names.append(function)
            return original(*args)

        monkeypatch.setattr(module, function, spy)
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_auto_takes_the_kernels_up_to_single_precision(inputs, calls, dtype):
    out = selective_scan(**{name: value.to(dtype) for name, value in inputs.items()})
    assert calls == ["numba_scan"]
    assert out.dtype == dtype


def test_auto_takes_torch_for_double(inputs, calls):
    out = selective_scan(**{name: value.double() for name, value in inputs.items()})
    assert calls == ["torch_scan"]
    assert out.dtype == torch.float64


def test_auto_takes_torch_without_numba(inputs, calls, monkeypatch):
    monkeypatch.setattr(scan, "_has_numba", lambda: False)
    out = selective_scan(**inputs)
    assert calls == ["torch_scan"]
    torch.testing.assert_close(out, selective_scan(**inputs, backend="reference"))
    assert available_backends() == ("torch", "reference")
    warm_up(background=False)()  # nothing to do, nothing raised


def test_forcing_the_kernels_without_numba_names_it(inputs, monkeypatch):
    monkeypatch.setattr(scan, "_has_numba", lambda: False)
    with pytest.raises(_errors.MissingPackageError, match=r"pip install numba, or use backend \"torch\""):
        selective_scan(**inputs, backend="cpu")


def test_forcing_the_kernels_on_double_says_what_they_take(inputs):
    doubled = {name: value.double() for name, value in inputs.items()}
    with pytest.raises(_errors.UserError, match=r"takes float32, float16 or bfloat16 .* given float64 on cpu"):
        selective_scan(**doubled, backend="cpu")


def test_forcing_mamba_ssm_without_it_names_the_extra(inputs, monkeypatch):
    monkeypatch.setattr(scan, "_has_mamba_ssm", lambda: False)
    with pytest.raises(_errors.MissingPackageError, match=r"mambaseg\[cuda\]"):
        selective_scan(**inputs, backend="mamba_ssm")


def test_forcing_mamba_ssm_on_the_cpu_says_what_it_takes(inputs, monkeypatch):
    monkeypatch.setattr(scan, "_has_mamba_ssm", lambda: True)
    with pytest.raises(_errors.UserError, match="on a CUDA device, but was given float32 on cpu"):
        selective_scan(**inputs, backend="mamba_ssm")


def test_unknown_backend_lists_the_known(inputs):
    with pytest.raises(_errors.UserError, match='"gpu" does not exist; choose one of auto, reference, torch, cpu'):
        selective_scan(**inputs, backend="gpu")


def test_mamba_ssm_is_given_what_its_kernels_take(inputs, monkeypatch):
    """The package itself runs on CUDA only; a stand-in with its signature shows the way in and out."""
    seen = {}

    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                          return_last_state=False):  # fmt: skip
        seen.update(u=u.dtype, B=B.dtype, A=A.dtype, D=D.dtype, last=return_last_state)
        return reference_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)

    name = "mamba_ssm.ops.selective_scan_interface"
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(selective_scan_fn=selective_scan_fn))
    mixed = {**inputs, "u": inputs["u"].half(), "D": torch.ones(6, dtype=torch.float16)}
    out, _ = mamba_ssm_scan(**mixed)
    assert seen == {"u": torch.float32, "B": torch.float32, "A": torch.float32, "D": torch.float32, "last": True}
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, reference_scan(**mixed)[0])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("delta", (1, 6, 19)), ("A", (5, 4)), ("B", (1, 4, 4, 20)), ("C", (1, 3, 4, 20)), ("u", (1, 6, 0)), ("z", (6, 20)),
     ("D", (1,)), ("delta_bias", (2, 6))],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(inputs, name, shape):
    with pytest.raises(ValueError, match=f"{name} "):
        selective_scan(**{**inputs, name: torch.zeros(shape)})


def test_three_dimensional_maps_are_one_group(inputs):
    one = {**inputs, "B": inputs["B"][:, :1], "C": inputs["C"][:, :1]}
    flat = {**inputs, "B": inputs["B"][:, 0], "C": inputs["C"][:, 0]}
    assert torch.equal(selective_scan(**one), selective_scan(**flat))


def test_importing_the_package_loads_neither_torch_nor_numba():
    code = "import sys, mambaseg.ops; assert not {'torch', 'numba', 'llvmlite'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
