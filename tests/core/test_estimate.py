"""What a segmentation is said to cost before it runs, against what it then takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from mambaseg import Cancelled, Grid, Image, Progress, UserError, estimate, segment
from mambaseg.segmentation import calibrate
from mambaseg.words import estimate_line


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "_known", {})
    return tmp_path / "cache"


def volume(shape: tuple[int, ...] = (20, 40, 50), axes: str = "ZYX") -> Image:
    values = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    return Image(values, axes, Grid(shape[-3:], (2.0, 1.0, 1.0), "mm"))


def counted(image: Image, model: Any, **options: Any) -> int:
    """Windows that a run says it has, before the first one."""
    seen: list[Progress] = []

    def stop(update: Progress) -> None:
        seen.append(update)
        raise Cancelled

    with pytest.raises(Cancelled):
        segment(image, model, progress=stop, **options)
    return seen[0].total


@pytest.mark.parametrize(("changes", "options"), [
    ({}, {}),
    ({"spacing": (1.0, 1.5, 0.8), "transpose": (2, 0, 1)}, {}),
    ({"spacing": (1.0, 1.5, 0.8)}, {"roi": ((0, 5), (10, 20), slice(40, None))}),
    ({"crop_to_nonzero": True}, {}),
    ({"ndim": 2}, {}),
])
def test_windows_are_those_of_the_run(tmp_path: Path, changes: dict[str, Any], options: dict[str, Any]) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", **({"channels": ("MRI",), "ndim": 3, "kind": "classes"} | changes))
    image = volume()
    image.data[:, :12] = 0  # a rim to be cropped
    assert estimate(image, model, **options).n_windows == counted(image, model, **options)


def test_time_points_and_mirror_images_are_counted(tmp_path: Path) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind="classes")
    series = volume((6, 20, 40, 50), "TZYX")
    one, six = (estimate(series.with_data(series.data[0], "ZYX"), model), estimate(series, model))
    assert six.n_windows == counted(series, model) == 6 * one.n_windows
    assert six.seconds > 4 * one.seconds
    assert estimate(series, model, tta=True).seconds > 4 * six.seconds  # 8 looks at each window


def change_kept(cache: Path, monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Change what the next process will find of the calibrations so far."""
    (kept,) = cache.rglob("calibration.json")
    entries = json.loads(kept.read_text())
    kept.write_text(json.dumps({key: entry | values for key, entry in entries.items()}))
    monkeypatch.setattr(calibrate, "_known", {})


def test_what_does_not_fit_is_told_with_a_way_out(tmp_path: Path, cache: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind="classes")
    small = estimate(volume(), model)
    assert small.fits
    assert small.advice == ""
    change_kept(cache, monkeypatch, window_bytes=10**14)
    cost = estimate(volume(), model)
    assert not cost.fits
    assert cost.memory_bytes > 10**14
    assert "close other programs, or cut the image into" in estimate_line(cost)


def test_calibration_is_kept_for_the_next_process_and_never_needed(tmp_path: Path, cache: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind="classes")
    first = estimate(volume(), model)
    change_kept(cache, monkeypatch, window_s=1000.0)
    assert estimate(volume(), model).seconds > 1000 * first.n_windows
    (kept,) = cache.rglob("calibration.json")
    kept.write_text("{ broken")
    assert estimate(volume(), model).seconds < 1000
    cache.rename(tmp_path / "moved")
    cache.write_text("a file where a folder should be")
    monkeypatch.setattr(calibrate, "_known", {})
    assert estimate(volume(), model).seconds < 1000


def test_a_run_corrects_what_was_measured_on_a_busier_machine(tmp_path: Path, cache: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind="classes")
    estimate(volume(), model)
    change_kept(cache, monkeypatch, window_s=1000.0)
    segment(volume(), model)
    monkeypatch.setattr(calibrate, "_known", {})  # the next process learns of it, too
    assert estimate(volume(), model).seconds < 1000


def test_mistakes_are_told_before_the_run(tmp_path: Path) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind="classes")
    with pytest.raises(UserError, match="2-D picture"):
        estimate(np.zeros((20, 20)) + np.arange(20), model)
    with pytest.raises(UserError, match="device"):
        estimate(volume(), model, device="abacus")


def test_the_command_says_it_in_words_and_in_json(tmp_path: Path) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), kind="classes")
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).normal(size=(80, 80)))
    command = [sys.executable, "-m", "mambaseg", "estimate", str(tmp_path / "grey.npy"), "-m", str(model.folder)]
    done = [subprocess.run([*command, *more], capture_output=True, text=True, check=True, timeout=300).stdout
            for more in ([], ["--json"])]
    assert done[0].startswith("grey.npy: 16 windows. Will take about ")
    answer = json.loads(done[1])
    assert answer["n_windows"] == 16
    assert answer["fits"]
    assert answer["memory_bytes"] > 1e8


CHILD = """
import json, sys, time
import numpy as np
import mambaseg
from mambaseg import Grid, Image
from mambaseg.machine import keep_freed_memory
from mambaseg.segmentation import calibrate, estimate, record

time.perf_counter = time.process_time  # one thread: what the run would take alone on the machine
keep_freed_memory()
name, shape, spacing, options, what = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
if name == "nuclei-2d":
    from skimage import data
    tissue = np.moveaxis(data.immunohistochemistry(), -1, 0)
    repeats = [1, *(-(-side // 512) for side in shape[-2:])]
    tissue = np.tile(tissue, repeats)[:, :shape[-2], :shape[-1]]
    values = tissue if len(shape) == 2 else np.stack([tissue] * shape[0])
    image = Image(values, "CYX" if len(shape) == 2 else "TCYX", Grid(tuple(shape[-2:]), (1, 1)), is_rgb=True)
else:
    image = Image(rng.normal(100, 30, shape).astype(np.int16), "ZYX", Grid(tuple(shape), tuple(spacing), "mm"))
model = mambaseg.load_model(name)
if what == "estimate":
    cost = mambaseg.estimate(image, model, **options)
    print(json.dumps([cost.seconds, cost.memory_bytes]))
else:
    start = time.process_time()
    found = mambaseg.segment(image, model, **options).record
    print(json.dumps([time.process_time() - start, found["peak_memory_bytes"]]))
"""

CASES = [
    ("nuclei-2d", (256, 256), None, {}), ("nuclei-2d", (512, 512), None, {}), ("nuclei-2d", (300, 1200), None, {}),
    ("nuclei-2d", (768, 768), None, {}), ("nuclei-2d", (512, 512), None, {"tta": True}),
    ("nuclei-2d", (4, 300, 300), None, {}), ("nuclei-2d", (1536, 1536), None, {"roi": [[0, 400], [0, 400]]}),
    ("hippocampus-mri", (40, 56, 40), (1, 1, 1), {}), ("hippocampus-mri", (48, 100, 80), (1, 1, 1), {}),
    ("hippocampus-mri", (40, 100, 100), (2, 0.7, 0.7), {}),
]


@pytest.mark.soak
def test_nine_of_ten_runs_take_the_memory_that_was_said(cache: Path) -> None:
    """Within 20 % of the peak memory; prints the ratio of time, too, in seconds of the processor."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    wrong = []
    for case in CASES:
        said, was = (json.loads(subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps([*case, what])], capture_output=True, text=True, check=True,
            env=environment, timeout=1200).stdout) for what in ("estimate", "run"))
        ratios = said[0] / was[0], said[1] / was[1]
        sys.stdout.write(f"{case}: time {ratios[0]:.2f}, memory {ratios[1]:.2f} of what it was\n")
        if abs(ratios[1] - 1) > 0.2:
            wrong.append((case, ratios[1]))
    assert len(wrong) <= 1, wrong
