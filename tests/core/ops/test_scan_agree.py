"""All backends compute the same function: random shapes, layouts and options, held to the reference in double."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambaseg.ops import scan_numba, scan_torch, selective_scan

CASES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2),
        "groups": st.sampled_from([1, 2, 4]),
        "per_group": st.sampled_from([1, 3, 8, 16, 17, 21]),
        "states": st.sampled_from([1, 4, 5, 16]),
        "length": st.sampled_from([1, 7, 64, 203, 1000]),
        "with_D": st.booleans(),
        "with_z": st.booleans(),
        "with_bias": st.booleans(),
        "softplus": st.booleans(),
        "layout": st.sampled_from(["channels first", "channels last", "sliced", "strided"]),
        "seed": st.integers(0, 1000),
    }
)


def lay_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values (batch, D, L) with other strides."""
    if layout == "channels last":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "sliced":
        return torch.cat([x, x], dim=2)[:, :, : x.shape[2]]
    if layout == "strided":
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=1)[:, ::2, ::2]
    return x


def make_inputs(case: dict) -> dict[str, torch.Tensor]:
    """float32 inputs with step sizes from 0.001 to 1, in the layout asked for."""
    torch.manual_seed(case["seed"])
    batch, groups, length, states = case["batch"], case["groups"], case["length"], case["states"]
    channels = groups * case["per_group"]
    sequence = (batch, channels, length)
    delta = torch.randn(sequence) - 3 if case["softplus"] else torch.rand(sequence) * 0.2
    inputs = {
        "u": lay_out(torch.randn(sequence), case["layout"]),
        "delta": lay_out(delta, case["layout"]),
        "A": -torch.rand(channels, states) * 8,
        "B": torch.randn(batch, groups, states, length),
        "C": torch.randn(batch, length, groups, states).permute(0, 2, 3, 1),
    }
    if case["with_D"]:
        inputs["D"] = torch.randn(channels)
    if case["with_z"]:
        inputs["z"] = lay_out(torch.randn(sequence) * 3, case["layout"])
    if case["with_bias"]:
        inputs["delta_bias"] = torch.rand(channels)
    return inputs


def run(inputs: dict, softplus: bool, backend: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Outputs and the gradient of every input, for a loss that weighs all outputs."""
    leaves = {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}
    out, last = selective_scan(**leaves, delta_softplus=softplus, return_last_state=True, backend=backend)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator) for x in (out, last)]
    loss = (out.double() * weights[0]).sum() + (last.double() * weights[1]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"out": out.detach(), "last_state": last.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_close(results: dict, truth: dict, tolerance: float) -> None:
    """Largest difference, relative to the largest value.

    The gradient of A is a sum over the sequence whose terms cancel: in float32 the reference itself is 1e-5 off.
    """
    for name, want in truth.items():
        scale = max(float(want.abs().max()), 1e-6)
        assert results[name].shape == want.shape
        difference = float((results[name].double() - want.double()).abs().max()) / scale
        assert difference <= (4 * tolerance if name == "A" else tolerance), (name, difference)


@settings(max_examples=40)
@given(CASES)
def test_backends_agree_with_double_precision(case):
    inputs = make_inputs(case)
    truth = run(inputs, case["softplus"], "reference", torch.float64)
    for backend in ("cpu", "torch"):
        assert_close(run(inputs, case["softplus"], backend, torch.float32), truth, 5e-6)
    assert_close(run(inputs, case["softplus"], "torch", torch.float64), truth, 1e-12)


@settings(max_examples=12)
@given(CASES)
def test_width_eight_equals_width_sixteen(case):
    inputs = make_inputs(case)
    results = {}
    native = scan_numba.WIDTH
    try:
        for width in (8, native):
            scan_numba.WIDTH = width
            results[width] = run(inputs, case["softplus"], "cpu", torch.float32)
    finally:
        scan_numba.WIDTH = native
    assert_close(results[8], results[native], 5e-6)
    assert_close(results[8], run(inputs, case["softplus"], "reference", torch.float64), 5e-6)


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(backend, dtype):
    case = {"batch": 2, "groups": 2, "per_group": 17, "states": 16, "length": 203, "with_D": True, "with_z": True,
            "with_bias": True, "softplus": True, "layout": "channels first", "seed": 1}  # fmt: skip
    half = {name: value.to(dtype) for name, value in make_inputs(case).items()}
    results = run(half, True, backend, dtype)
    assert results["out"].dtype == results["u"].dtype == results["A"].dtype == dtype
    assert results["last_state"].dtype == torch.float32
    truth = run(half, True, "reference", torch.float64)
    assert_close({"last_state": results["last_state"]}, {"last_state": truth["last_state"]}, 5e-6)
    assert_close(results, truth, 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("length", [1, 5])
def test_gradcheck(backend, length):
    case = {"batch": 2, "groups": 2, "per_group": 2, "states": 3, "length": length, "with_D": True, "with_z": True,
            "with_bias": True, "softplus": True, "layout": "channels first", "seed": 2}  # fmt: skip
    inputs = {name: value.double().requires_grad_() for name, value in make_inputs(case).items()}
    names = list(inputs)

    def scan(*values):
        return selective_scan(
            **dict(zip(names, values, strict=True)), delta_softplus=True, return_last_state=True, backend=backend
        )

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()))


@pytest.mark.parametrize("n_chunks", [1, 5])
def test_torch_backend_in_many_segments_keeps_little(monkeypatch, n_chunks):
    """Segments, blocks and chunks all end inside the sequence; what training keeps stays far below (batch, D, L, N)."""
    case = {"batch": 1, "groups": 2, "per_group": 5, "states": 16, "length": 1000, "with_D": True, "with_z": False,
            "with_bias": True, "softplus": True, "layout": "channels first", "seed": 3}  # fmt: skip
    step = 10 * 16
    monkeypatch.setattr(scan_torch, "_SEGMENT_STATES", 200 * step)
    monkeypatch.setattr(scan_torch, "_BLOCK_STATES", {"cpu": 35 * step})
    monkeypatch.setattr(scan_torch, "_OPERATION_STATES", {"cpu": n_chunks * step})
    monkeypatch.setattr(scan_torch, "_MAX_CHUNK", 9)
    inputs = make_inputs(case)
    truth = run(inputs, True, "reference", torch.float64)
    assert_close(run(inputs, True, "torch", torch.float64), truth, 1e-12)
    assert saved_bytes(inputs, "torch") < 1000 * step * 4


def test_cpu_training_keeps_a_state_per_tile_only():
    case = {"batch": 1, "groups": 1, "per_group": 32, "states": 16, "length": 1000, "with_D": False, "with_z": False,
            "with_bias": False, "softplus": False, "layout": "channels first", "seed": 4}  # fmt: skip
    inputs = make_inputs(case)
    given_bytes = sum(value.numel() * 4 for value in inputs.values())
    assert saved_bytes(inputs, "cpu") <= given_bytes + 32 * 16 * -(-1000 // 64) * 4


def saved_bytes(inputs: dict, backend: str) -> int:
    """What autograd holds between forward and backward."""
    sizes: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = selective_scan(**leaves, delta_softplus=True, backend=backend)
    assert out.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_gradient_of_one_result_alone(backend):
    case = {"batch": 1, "groups": 1, "per_group": 5, "states": 5, "length": 70, "with_D": True, "with_z": True,
            "with_bias": True, "softplus": True, "layout": "channels first", "seed": 5}  # fmt: skip
    inputs = {name: value.requires_grad_() for name, value in make_inputs(case).items()}
    scan = {"delta_softplus": True, "return_last_state": True}
    _, last = selective_scan(**inputs, **scan, backend=backend)
    (grad_u,) = torch.autograd.grad(last.sum(), inputs["u"])
    doubled = {name: value.detach().double().requires_grad_() for name, value in inputs.items()}
    _, last = selective_scan(**doubled, **scan, backend="reference")
    (want,) = torch.autograd.grad(last.sum(), doubled["u"])
    assert float((grad_u - want).abs().max()) <= 5e-6 * float(want.abs().max())


def test_one_step_by_hand():
    """dt = 0.5, A = -ln 4: the state is 0.5 * 2 * 3 = 3, then 3 / 2 + 0.5 * 2 * 1 = 2.5; C = 10 reads, D * u adds."""
    inputs = {
        "u": torch.tensor([[[3.0, 1.0]]]),
        "delta": torch.full((1, 1, 2), 0.5),
        "A": -torch.log(torch.tensor([[4.0]])),
        "B": torch.full((1, 1, 2), 2.0),
        "C": torch.full((1, 1, 2), 10.0),
        "D": torch.tensor([4.0]),
    }
    for backend in ("reference", "torch", "cpu"):
        out, last = selective_scan(**inputs, return_last_state=True, backend=backend)
        torch.testing.assert_close(out, torch.tensor([[[42.0, 29.0]]]))
        torch.testing.assert_close(last, torch.tensor([[[2.5]]]))


@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("where", ["u", "delta", "z"])
def test_nan_goes_through_and_stays_in_its_channel(monkeypatch, backend, where, width):
    monkeypatch.setattr(scan_numba, "WIDTH", min(width, scan_numba.WIDTH))
    case = {"batch": 1, "groups": 1, "per_group": 18, "states": 4, "length": 80, "with_D": True, "with_z": True,
            "with_bias": True, "softplus": True, "layout": "channels first", "seed": 6}  # fmt: skip
    inputs = make_inputs(case)
    inputs[where][0, 3, 20] = float("nan")
    out = selective_scan(**inputs, delta_softplus=True, backend=backend)
    wrong = torch.isnan(out[0])
    assert wrong[3, 20]
    assert wrong[3, 21:].all() == (where != "z")
    assert not wrong[3, :20].any()
    assert not wrong[[i for i in range(18) if i != 3]].any()


@pytest.mark.parametrize("width", [8, 16])
def test_very_long_and_very_short_steps(monkeypatch, width):
    """A step of 1000 forgets everything, one of exp(-30) nothing; softplus and gate far from zero."""
    monkeypatch.setattr(scan_numba, "WIDTH", min(width, scan_numba.WIDTH))
    torch.manual_seed(0)
    delta = torch.tensor([1000.0, -30.0, -200.0, 5.0, 90.0]).repeat(1, 3, 30)
    inputs = {"u": torch.randn(1, 3, 150), "delta": delta, "A": -torch.rand(3, 4) * 20, "B": torch.randn(1, 4, 150),
              "C": torch.randn(1, 4, 150), "z": torch.randn(1, 3, 150) * 100}  # fmt: skip
    truth = run(inputs, True, "reference", torch.float64)
    for backend in ("cpu", "torch"):
        results = run(inputs, True, backend, torch.float32)
        assert all(torch.isfinite(value).all() for value in results.values())
        assert_close(results, truth, 5e-6)
