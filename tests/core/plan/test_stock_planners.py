"""Fingerprints drawn at random, planned by the real nnU-Net beside us."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_compare import n_unlike
from mambaseg.plan.rules import plan_dataset

NAME = "Dataset001_drawn"
PLANNERS = {"ExperimentPlanner": "current", "nnUNetPlannerResEncM": "resenc-m", "nnUNetPlannerResEncL": "resenc-l",
            "nnUNetPlannerResEncXL": "resenc-xl"}
STOCK = """
import contextlib, json, sys
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import *
made = {}
for name in sys.argv[2:]:
    with contextlib.redirect_stdout(sys.stderr):
        made[name] = globals()[name](sys.argv[1]).plan_experiment()
print(json.dumps(made, default=float))
"""


def drawn(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A data set's description and fingerprint: anisotropic volumes, isotropic ones, or pictures."""
    random = np.random.default_rng(seed)
    n = int(random.integers(3, 40))
    if seed % 3 == 2:
        shapes = np.column_stack([np.ones(n, int), random.integers(40, 1500, (n, 2))])
        spacings = np.column_stack([np.full(n, 999.0), np.ones((n, 2))])
    else:
        shapes = np.maximum(4, (10 ** random.uniform(1, 2.5, 3) * random.uniform(0.7, 1.3, (n, 3))).astype(int))
        usual = 10 ** (random.uniform(-0.5, 0.8, 3) if seed % 3 == 0 else np.full(3, random.uniform(-0.5, 0.5)))
        spacings = usual * random.uniform(0.95, 1.05, (n, 3))
    labels = {"background": 0} | {f"organ {i}": i for i in range(1, int(random.integers(2, 16)))}
    description = {
        "channel_names": {"0": "ct", "1": "MR"}, "labels": labels, "numTraining": n, "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {f"c{i}": {"images": ["none.nii.gz"], "label": "none.nii.gz"} for i in range(n)}}
    fingerprint = {
        "shapes_after_crop": shapes.tolist(), "spacings": spacings.tolist(),
        "median_relative_size_after_cropping": float(random.uniform(0.4, 1)),
        "foreground_intensity_properties_per_channel": {str(i): {"mean": 1.0, "std": 1.0} for i in range(2)}}
    return description, fingerprint


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nnunetv2") is None, reason="needs nnunetv2")
@pytest.mark.parametrize("seed", range(3))
def test_plans_are_those_of_nnunet(tmp_path: Path, seed: int) -> None:
    description, fingerprint = drawn(seed)
    roots = {f"nnUNet_{part}": str(tmp_path / part) for part in ("raw", "preprocessed", "results")}
    for root in roots.values():
        folder = Path(root) / NAME
        folder.mkdir(parents=True)
        (folder / "dataset.json").write_text(json.dumps(description))
        (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", STOCK, NAME, *PLANNERS], env=os.environ | roots,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, want in json.loads(done.stdout.splitlines()[-1]).items():
        got = json.loads(json.dumps(plan_dataset(description, fingerprint, PLANNERS[name], NAME)))
        assert n_unlike(got, want) == 0, name
