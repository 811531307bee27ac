"""The scans of the official code, reproduced by every backend: outputs, last states and gradients."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "data" / "parity"))
import detw
from mambaseg.ops import selective_scan

HERE = Path(__file__).parents[2] / "data" / "parity"
RUNS = [
    ("reference", torch.float32),
    ("reference", torch.float64),
    ("torch", torch.float32),
    ("torch", torch.float64),
    ("cpu", torch.float32),
]
COPIED = ["scan_g1_len7_D", "scan_g2_len64_z_nosp", "scan_g4_len1_all", "scan_g4_len7_plain"]
OTHERS = [
    "scan_g1_len1000_all",
    "scan_g1_len1_plain",
    "scan_g1_len64_all",
    "scan_g1_len64_bias_nosoftplus",
    "scan_g4_len1000_D_bias_sp",
    "scan_g4_len64_D_bias_sp",
]


def check_fixture(folder: Path, name: str, backend: str, dtype: torch.dtype) -> None:
    record, arrays = detw.load(str(folder), name)
    inputs = {key: torch.from_numpy(value).to(dtype).requires_grad_() for key, value in detw.inputs(record).items()}
    softplus = record["args"]["delta_softplus"]
    results = selective_scan(**inputs, delta_softplus=softplus, return_last_state=True, backend=backend)
    for result, spec in zip(results, record["outputs"], strict=True):
        for stored in (spec["name"], spec["name"] + "_f64"):
            worst, _ = detw.compare(result.detach().numpy(), arrays[stored], spec)
            assert worst <= 1e-5, (stored, worst)
    sum((result**2).mean() for result in results).backward()
    for spec in record["grads"]:
        gradient = inputs[spec["name"].removeprefix("input:")].grad
        error = detw.compare_grad(gradient.numpy(), arrays["grad:" + spec["name"]], spec)
        assert error <= (1e-5 if dtype == torch.float64 else 1e-3), (spec["name"], error)


@pytest.mark.parametrize(("backend", "dtype"), RUNS)
@pytest.mark.parametrize("name", COPIED)
def test_copied_fixture(name, backend, dtype):
    check_fixture(HERE, name, backend, dtype)


@pytest.mark.parametrize(("backend", "dtype"), RUNS)
@pytest.mark.parametrize("name", OTHERS)
def test_shared_fixture(shared, name, backend, dtype):
    check_fixture(shared / "parity", name, backend, dtype)
