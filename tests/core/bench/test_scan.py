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


def test_figures_of_a_map():
    figures = scan._measure_map("tiny", 16, 6, 2, rounds=2)
    assert set(figures) == {"map_in_place_over_map_copied_forward_tiny", "map_in_place_over_map_copied_training_tiny",
                            "map_in_place_forward_tiny_ms"}  # fmt: skip
    assert all(math.isfinite(value) and value > 0 for value in figures.values())


def test_quick_names_the_shorter_sequence(monkeypatch):
    monkeypatch.setattr(scan, "_measure", lambda shape: {f"{shape.name}_{shape.length}": 1.0})
    monkeypatch.setattr(scan, "_measure_map", lambda name, *sizes, rounds: {name: 1.0})
    always = {"vm_4096", "bot_1680", "stage1", "stage4", "load_average_1_min"}
    assert set(scan.run(quick=True)) == {"enc_length_8192_8192", *always}
    assert set(scan.run(quick=False)) == {"enc_65536", *always}
