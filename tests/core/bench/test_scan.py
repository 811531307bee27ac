"""The figures of `bench scan` on a small shape: names, units and sense."""

import math

from mambaseg.bench import scan


def test_figures_of_a_shape():
    figures = scan._measure(scan._Shape("tiny", 32, 2, 100, rounds=2, reference_rounds=1))
    assert all(name.endswith(("_tiny", "_tiny_ms", "_tiny_giga_states_per_s")) for name in figures)
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    ratio = figures["reference_forward_tiny_ms"] / figures["cpu_forward_tiny_ms"]
    assert math.isclose(figures["reference_over_cpu_forward_tiny"], ratio)
    assert figures["cpu_against_torch_max_relative_error_tiny"] < 2e-6


def test_quick_names_the_shorter_sequence(monkeypatch):
    monkeypatch.setattr(scan, "_measure", lambda shape: {f"{shape.name}_{shape.length}": 1.0})
    assert set(scan.run(quick=True)) == {"vm_4096", "bot_1680", "enc_length_8192_8192", "load_average_1_min"}
    assert set(scan.run(quick=False)) == {"vm_4096", "bot_1680", "enc_65536", "load_average_1_min"}
