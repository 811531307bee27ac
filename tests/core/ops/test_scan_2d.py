"""The scan of a map in four directions: read in place or from copies, the same function."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mambaseg import _errors
from mambaseg.nets.vssm import SS2D
from mambaseg.ops import cross_selective_scan, scan, scan_2d, scan_2d_numba, scan_numba
from mambaseg.ops.scan_2d import plain_cross_scan

SIZES = [(7, 5), (1, 9), (9, 1), (1, 1), (8, 8), (70, 3), (20, 13)]
CASES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2),
        "channels": st.sampled_from([1, 3, 8, 16, 17, 40]),
        "size": st.sampled_from(SIZES),
        "states": st.sampled_from([1, 4, 5, 16]),
        "rank": st.sampled_from([1, 2, 6, 24]),
        "layout": st.sampled_from(["channels first", "channels last", "half of the channels", "strided"]),
        "seed": st.integers(0, 1000),
    }
)
CASE = {"batch": 2, "channels": 21, "size": (7, 11), "states": 4, "rank": 2, "layout": "channels last", "seed": 1}


def lay_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values (batch, D, H, W) with other strides."""
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "half of the channels":  # as SS2D takes them from its first projection
        return torch.cat([x, x], dim=1).contiguous(memory_format=torch.channels_last)[:, : x.shape[1]]
    if layout == "strided":
        return x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=1)[:, ::2, :, ::2]
    return x


def make_inputs(case: dict) -> dict[str, torch.Tensor]:
    """float32 inputs with step sizes from about 0.001 to 1."""
    torch.manual_seed(case["seed"])
    channels, states, rank = case["channels"], case["states"], case["rank"]
    return {
        "features": lay_out(torch.randn(case["batch"], channels, *case["size"]), case["layout"]),
        "x_proj": torch.randn(4, rank + 2 * states, channels) / channels**0.5,
        "dt_proj": torch.randn(4, channels, rank) / rank**0.5,
        "A": -torch.rand(4, channels, states) * 8,
        "D": torch.randn(4, channels),
        "delta_bias": torch.rand(4, channels) * 4 - 6,
    }


def run(inputs: dict, function=cross_selective_scan, dtype=torch.float32, backend: str = "cpu"):
    """Output, and the gradient of every input for a loss that weighs all outputs."""
    leaves = {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}
    out = function(**leaves, backend=backend)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float32)
    gradients = torch.autograd.grad((out.double() * weights).sum(), list(leaves.values()))
    return {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}


def truth_of(inputs: dict) -> dict[str, torch.Tensor]:
    """Copies and double precision, with the scan that test_scan_agree holds to the reference."""
    return run(inputs, plain_cross_scan, torch.float64, "torch")


def assert_close(results: dict, truth: dict, tolerance: float) -> None:
    """Largest difference, relative to the largest value; gradients of A cancel and lose more, see test_scan_agree."""
    for name, want in truth.items():
        scale = max(float(want.abs().max()), 1e-6)
        assert results[name].shape == want.shape
        difference = float((results[name].double() - want).abs().max()) / scale
        assert difference <= (4 * tolerance if name == "A" else tolerance), (name, difference)


@settings(max_examples=25)
@given(CASES)
def test_reading_in_place_agrees_with_copies_in_double_precision(case):
    inputs = make_inputs(case)
    truth = truth_of(inputs)
    assert_close(run(inputs), truth, 5e-6)
    assert_close(run(inputs, backend="torch"), truth, 5e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [8, 16])
def test_every_size_in_both_vector_widths(monkeypatch, size, width):
    monkeypatch.setattr(scan_numba, "WIDTH", min(width, scan_numba.WIDTH))
    inputs = make_inputs({**CASE, "size": size})
    assert_close(run(inputs), truth_of(inputs), 5e-6)


def test_channels_beyond_a_block_and_a_batch_beyond_the_parts_of_the_backward_pass():
    inputs = make_inputs({**CASE, "batch": 9, "channels": 150, "size": (3, 5)})
    assert_close(run(inputs), truth_of(inputs), 5e-6)
    assert_close(run({**inputs, "features": inputs["features"][:1]}),
                 truth_of({**inputs, "features": inputs["features"][:1]}), 5e-6)  # fmt: skip


def test_gradcheck_in_double_precision():
    inputs = {name: value.double().requires_grad_() for name, value in make_inputs({**CASE, "size": (3, 4)}).items()}
    inputs = {name: value[:, :2].detach().requires_grad_() if name in {"features", "dt_proj", "A", "D", "delta_bias"}
              else value[..., :2].detach().requires_grad_() for name, value in inputs.items()}  # fmt: skip
    assert torch.autograd.gradcheck(lambda *values: cross_selective_scan(*values), tuple(inputs.values()))


def test_results_do_not_depend_on_the_default_dtype():
    inputs = make_inputs(CASE)
    truth = truth_of(inputs)
    torch.set_default_dtype(torch.float64)
    try:
        results = run(inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in results.values()} == {torch.float32}
    assert_close(results, truth, 5e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_half_precision_is_computed_in_single(dtype, backend):
    half = {name: value.to(dtype) for name, value in make_inputs(CASE).items()}
    results = run(half, dtype=dtype, backend=backend)
    assert all(value.dtype == dtype for value in results.values())
    assert_close(results, truth_of(half), 2 * torch.finfo(dtype).eps)


def test_result_does_not_depend_on_the_number_of_threads():
    inputs = make_inputs({**CASE, "channels": 80, "size": (40, 31), "states": 16})
    before = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(run_kernels(inputs))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def run_kernels(inputs: dict) -> list[torch.Tensor]:
    """What the kernels write, without torch's matrix products, whose sums may depend on its threads."""
    pixels = inputs["features"].permute(0, 2, 3, 1).flatten(1, 2)
    lines = torch.randn(*pixels.shape[:2], 4 * 34, generator=torch.Generator().manual_seed(0))
    problem = scan_2d_numba._Problem((pixels, lines, *list(inputs.values())[2:]), (40, 31))
    out, starts = problem.forward(keep_starts=True)
    return [out, *problem.backward(starts, out)]


def test_a_map_that_is_not_a_number_stays_in_its_batch_element():
    inputs = make_inputs({**CASE, "channels": 18})
    clean = cross_selective_scan(**inputs, backend="cpu")
    inputs["features"][0, 3, 2, 2] = float("nan")
    out = cross_selective_scan(**inputs, backend="cpu")
    assert torch.isnan(out[0]).all()  # every pixel sees every other, and every channel the projections
    torch.testing.assert_close(out[1], clean[1])


def test_a_weight_that_is_not_a_number_spoils_its_channel_alone():
    inputs = make_inputs({**CASE, "channels": 18})
    for name, where in (("dt_proj", (1, 3, 0)), ("A", (2, 3, 0)), ("D", (3, 3)), ("delta_bias", (0, 3))):
        spoilt = inputs[name].clone()
        spoilt[where] = float("nan")
        out = cross_selective_scan(**{**inputs, name: spoilt}, backend="cpu")
        assert torch.isnan(out[:, 3]).all(), name
        assert torch.isfinite(out[:, [c for c in range(18) if c != 3]]).all(), name


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor has which an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *(x.untyped_storage().nbytes() // x.element_size() for x in tensors)])
        return result


@pytest.mark.parametrize("layout", ["channels last", "channels first"])
def test_no_tensor_is_as_large_as_four_maps(layout):
    """At the sizes of VM-UNet's first stage, forward and backward; the copies of the plain version are seen."""
    inputs = make_inputs({"batch": 2, "channels": 192, "size": (12, 16), "states": 16, "rank": 6, "layout": layout,
                          "seed": 0})  # fmt: skip
    four_maps = 4 * inputs["features"].numel()
    with Largest() as in_place:
        run(inputs)
    assert inputs["features"].numel() <= in_place.elements < four_maps
    with Largest() as copying:
        run(inputs, plain_cross_scan)
    assert copying.elements >= four_maps


def test_ss2d_reads_its_map_once():
    """Without gradients nothing is larger than what its own first projection makes, x and z."""
    layer, x = SS2D(64), torch.randn(1, 12, 16, 64)
    with Largest() as seen, torch.no_grad():
        layer(x)
    assert seen.elements == 2 * 128 * 12 * 16


@pytest.fixture
def calls(monkeypatch):
    """Which way maps are read."""
    names = []
    for module, function in ((scan_2d, "plain_cross_scan"), (scan_2d_numba, "numba_cross_scan")):
        original = getattr(module, function)

        def spy(*args, original=original, function=function, **kwargs):
            names.append(function)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, function, spy)
    return names


def test_auto_reads_in_place_up_to_single_precision(calls, monkeypatch):
    inputs = make_inputs(CASE)
    in_place = cross_selective_scan(**inputs)
    cross_selective_scan(**{name: value.bfloat16() for name, value in inputs.items()})
    assert calls == ["numba_cross_scan"] * 2
    cross_selective_scan(**{name: value.double() for name, value in inputs.items()})
    monkeypatch.setattr(scan, "_has_numba", lambda: False)
    torch.testing.assert_close(cross_selective_scan(**inputs), in_place)
    assert calls[2:] == ["plain_cross_scan"] * 2


def test_forcing_the_kernels_says_why_they_cannot_run(monkeypatch):
    inputs = make_inputs(CASE)
    with pytest.raises(_errors.UserError, match=r"given float64 on cpu"):
        cross_selective_scan(**{name: value.double() for name, value in inputs.items()}, backend="cpu")
    with pytest.raises(_errors.UserError, match='"gpu" does not exist'):
        cross_selective_scan(**inputs, backend="gpu")
    monkeypatch.setattr(scan, "_has_numba", lambda: False)
    with pytest.raises(_errors.MissingPackageError, match="numba"):
        cross_selective_scan(**inputs, backend="cpu")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("features", (2, 21, 7)), ("features", (2, 21, 0, 4)), ("x_proj", (4, 9, 21)), ("dt_proj", (3, 21, 2)),
     ("A", (84, 4)), ("D", (84,)), ("delta_bias", (4, 20))],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(name, shape):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        cross_selective_scan(**{**make_inputs(CASE), name: torch.zeros(shape)})


def test_only_needed_gradients_are_given_and_only_once():
    inputs = make_inputs(CASE)
    inputs["A"].requires_grad_()
    (grad,) = torch.autograd.grad(cross_selective_scan(**inputs).square().sum(), inputs["A"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        grad.sum().backward()
    assert inputs["features"].grad is None
