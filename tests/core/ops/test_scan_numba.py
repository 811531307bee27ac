"""The kernels in a program: threads, forks, the cache of compiled code, warming up."""

import json
import os
import subprocess
import sys
import threading

import pytest
import torch

from mambaseg.ops import _warm_up, selective_scan, warm_up


def make_inputs(channels: int = 80, length: int = 2048, seed: int = 0) -> dict[str, torch.Tensor]:
    """Large enough to be shared out among threads."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "u": normal(1, channels, length),
        "delta": normal(1, channels, length),
        "A": -torch.rand(channels, 16, generator=generator),
        "B": normal(1, 2, 16, length),
        "C": normal(1, 2, 16, length),
        "z": normal(1, channels, length),
    }


def run(inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Output and all gradients."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    out = selective_scan(**leaves, delta_softplus=True, backend="cpu")
    return [out, *torch.autograd.grad(out.square().mean(), list(leaves.values()))]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_result_does_not_depend_on_the_number_of_threads(two_threads):
    inputs = make_inputs()
    shared_out = run(inputs)
    torch.set_num_threads(1)
    for one, two in zip(run(inputs), shared_out, strict=True):
        assert torch.equal(one, two)


def test_two_python_threads_at_once(two_threads):
    inputs = [make_inputs(seed=seed) for seed in range(2)]
    wanted = [run(x) for x in inputs]
    results: list[list[list[torch.Tensor]]] = [[], []]

    def work(i):
        for _ in range(4):
            results[i].append(run(inputs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(results[i]) == 4
        for result in results[i]:
            assert all(torch.equal(a, b) for a, b in zip(result, wanted[i], strict=True))


FORK = """
import os, sys, torch
from mambaseg.ops import selective_scan
torch.set_num_threads(2)
torch.manual_seed(0)
x = [torch.randn(1, 80, 2048), torch.rand(1, 80, 2048), -torch.rand(80, 16), *torch.randn(2, 1, 16, 2048).unsqueeze(1)]
before = selective_scan(*x, backend="cpu")
from mambaseg.ops import _pool
assert _pool._executor is not None, "the parent must have started threads"
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(selective_scan(*x, backend="cpu"), before) else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_works_in_a_child_after_fork():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=300)


STATS = """
import json, torch
from mambaseg.ops import scan_2d_numba, scan_numba, warm_up
warm_up(background=False)
u = torch.randn(2, 40, 100, requires_grad=True)
B = torch.randn(2, 1, 4, 100)
out, _ = scan_numba.numba_scan(u, torch.rand(2, 100, 40).transpose(1, 2), -torch.rand(40, 4), B, B, z=u)
out.sum().backward()
with torch.no_grad():
    scan_numba.numba_scan(u.half(), u, -torch.rand(40, 4), B, B)
rows = torch.rand(4, 40)
weights = torch.randn(4, 11, 40), torch.randn(4, 40, 3), -torch.rand(4, 40, 4), rows, rows
for features in u.view(2, 40, 10, 10), u.view(2, 40, 4, 25).contiguous(memory_format=torch.channels_last):
    scan_2d_numba.numba_cross_scan(features, *weights).sum().backward()
    with torch.no_grad():
        scan_2d_numba.numba_cross_scan(features, *weights)
modules = scan_numba, scan_2d_numba
kernels = [kernel for module in modules for kernel in (module._forward_kernel, module._backward_kernel)]
print(json.dumps([[sum(k.stats.cache_hits.values()), sum(k.stats.cache_misses.values())] for k in kernels]))
"""


def test_a_second_process_compiles_nothing():
    """And one signature serves all layouts, dtypes and options, so that no later call compiles either."""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", STATS], check=True, capture_output=True, text=True, timeout=600)
    assert json.loads(done.stdout) == [[1, 0]] * 4


WARM_UP = """
import time
from mambaseg.ops import _warm_up, warm_up
compile_all = _warm_up._compile
_warm_up._compile = lambda training: (time.sleep(2), compile_all(training))  # as on a busy machine
warm_up(background=False, on_message=print, training=False)
"""


def test_warming_up_announces_what_compiles_and_not_what_is_loaded_slowly(tmp_path):
    given = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [subprocess.run([sys.executable, "-c", WARM_UP], env=given, check=True, capture_output=True, text=True,
                           timeout=600).stdout.splitlines() for _ in range(2)]
    assert [line[:9] for line in said[0]] == ["Compiling", "The selec"]
    assert said[1] == []


def test_warming_up_tells_who_waits_of_a_failure(monkeypatch):
    def fail(training):
        raise OSError("no space")

    monkeypatch.setattr(_warm_up, "_compile", fail)
    wait = warm_up(background=True)
    with pytest.raises(OSError, match="no space"):
        wait()


def test_second_derivatives_are_refused():
    u = torch.randn(1, 4, 5, requires_grad=True)
    out = selective_scan(u, u, -torch.rand(4, 4), torch.randn(1, 4, 5), torch.randn(1, 4, 5), backend="cpu")
    (grad,) = torch.autograd.grad(out.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        grad.sum().backward()


def test_only_needed_gradients_are_given():
    u = torch.randn(1, 4, 5)
    A = (-torch.rand(4, 4)).requires_grad_()
    B = torch.randn(1, 4, 5)
    selective_scan(u, u.abs(), A, B, B, backend="cpu").sum().backward()
    assert A.grad is not None
    assert u.grad is None


def test_results_do_not_depend_on_the_default_dtype(two_threads):
    inputs = make_inputs(channels=20, length=100)
    wanted = run(inputs)
    torch.set_default_dtype(torch.float64)
    try:
        results = run(inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, two) for one, two in zip(results, wanted, strict=True))
