"""mambaseg plan: what a person reads, what nnU-Net would read, and how a broken data set is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from mambaseg.cli._app import run


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Six small anisotropic volumes as nnU-Net wants them."""
    folder = tmp_path / "Dataset005_small"
    random = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index in range(6):
        labels = np.zeros((10, 40, 36 + index), np.uint8)
        labels[3:6, 10:20, 10:20] = 1
        for part, array, end in (("imagesTr", random.normal(0, 1, labels.shape).astype(np.float32), "_0000"),
                                 ("labelsTr", labels, "")):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing((0.8, 0.8, 4.0))
            SimpleITK.WriteImage(image, str(folder / part / f"c{index}{end}.nii.gz"))
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 6,
        "file_ending": ".nii.gz"}))
    return folder


def test_a_table_of_both_configurations(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(volumes), "--quiet"]) == 0
    out = capsys.readouterr().out
    for words in ("6 cases, 1 channel, 2 classes; planner umamba", "3-D, full resolution", "4 x 0.8 x 0.8", "ct",
                  "Memory", "Patch"):
        assert words in out


@pytest.mark.parametrize(("planner", "key"), [("umamba", "UNet_class_name"), ("current", "architecture"),
                                              ("resenc-l", "architecture")])
def test_json_is_what_nnunet_reads(volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], planner: str,
                                   key: str) -> None:
    target = tmp_path / "plans.json"
    assert run(["plan", str(volumes), "--planner", planner, "--json", "-o", str(target), "-q"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert json.loads(target.read_text()) == plans
    assert plans["dataset_name"] == "Dataset005_small"
    assert key in plans["configurations"]["3d_fullres"]
    assert plans["configurations"]["3d_fullres"]["spacing"] == pytest.approx([4, 0.8, 0.8])


@pytest.mark.parametrize("command", [["plan"], ["train", "--iterations", "1", "-o"]])
def test_a_broken_data_set_is_told_line_by_line(volumes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                command: list[str]) -> None:
    (volumes / "labelsTr/c0.nii.gz").unlink()
    (volumes / "imagesTr/c1_0000.nii.gz").write_bytes(b"nothing")
    name, *rest = command
    assert run([name, str(volumes), "-q", *rest, *([str(tmp_path / "model")] if rest else [])]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "2 problems found" in lines[0]
    assert "c0.nii.gz is missing" in lines[1]
    assert "c1_0000.nii.gz" in lines[2]
    assert not (tmp_path / "model").exists()


def test_an_unknown_planner_is_told(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(volumes), "--planner", "best"]) == 2
    assert "choose one of umamba, current" in capsys.readouterr().err
