"""`mambaseg finetune` as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from mambaseg.cli import _app
from mambaseg.models import load_model
from tiny_models import save_tiny


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A model, an image, and its labels."""
    save_tiny(tmp_path / "tiny", kind="classes", channels=("grey",), name="tiny")
    image = np.random.default_rng(0).normal(100, 20, (40, 40)).clip(0, 255).astype(np.uint8)
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20] = 1
    tifffile.imwrite(tmp_path / "image.tif", image)
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    return str(tmp_path / "tiny"), str(tmp_path / "image.tif"), str(tmp_path / "labels.tif")


def test_a_model_learns_and_says_what_it_was_worth(files: tuple[str, str, str], tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    model, image, labels = files
    status = _app.run(["finetune", "-m", model, "--example", image, labels, "-o", str(tmp_path / "new"),
                       "--minutes", "0.01"])
    assert status == 0
    said = capsys.readouterr().out
    assert "kept aside" in said
    assert "mambaseg segment IMAGE -m" in said
    assert "What was kept aside" in (tmp_path / "new.training" / "report.html").read_text(encoding="utf-8")
    tuned = load_model(tmp_path / "new")
    assert tuned.parent is not None
    assert tuned.training["n_labelled_voxels"] == 1600  # whole labels: the background counts


def test_sparse_labels_leave_the_rest_open(files: tuple[str, str, str], tmp_path: Path) -> None:
    model, image, labels = files
    assert _app.run(["finetune", "-m", model, "--example", image, labels, "-o", str(tmp_path / "new"), "--minutes",
                     "0.01", "--sparse", "-q"]) == 0
    assert load_model(tmp_path / "new").training["n_labelled_voxels"] == 400


def test_the_parent_is_not_overwritten(files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    model, image, labels = files
    before = load_model(model).checksum
    assert _app.run(["finetune", "-m", model, "--example", image, labels, "-o", model]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert load_model(model).checksum == before
