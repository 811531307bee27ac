"""A cascade exported to nnU-Net: two folders, which stock runs one after the other, and which come back as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cascades import balls, save_cascade
from golden_predicting import stock_logits
from mambaseg import load_model
from mambaseg.models import Model
from mambaseg.models.exporter import export_model
from mambaseg.models.importer import import_checkpoint
from mambaseg.predict.blend import probabilities_to_labels
from mambaseg.predict.run import to_frame
from mambaseg.prepare import prepare

STAGES = ("3d_lowres", "3d_cascade_fullres")
SPACING = (1.3, 1.0, 1.0)


def stock_labels(folder: Path, image: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
    """What nnU-Net's own predictor finds with a folder."""
    inference = pytest.importorskip("nnunetv2.inference.predict_from_raw_data", reason="needs nnunetv2")
    predictor = inference.nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False,
                                          device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), None)
    given = None if previous is None else previous[None].astype(np.float32)
    return predictor.predict_single_npy_array(image.copy(), {"spacing": [*SPACING]}, given, None, False)


def own_labels(stage: Model, image: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
    """What ours finds, windows added up in half precision as stock does it."""
    prepared = prepare(image, SPACING, stage.plan, previous=previous)
    logits = stock_logits(stage.built_all, prepared, stage.plan, n_classes=stage.n_outputs,
                          previous=prepared.previous, foreground=() if previous is None else stage.foreground_labels)
    return probabilities_to_labels(to_frame(logits.astype(np.float32), prepared, stage.kind), stage.kind,
                                   stage.region_order or None)


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_stock_runs_both_stages_and_finds_the_same(tmp_path: Path, kind: str) -> None:
    cascade = load_model(save_cascade(tmp_path / "cascade", kind).folder)
    made = export_model(cascade, "nnunet", tmp_path / "out")
    folders = [made.folder / f"nnUNetTrainer__nnUNetPlans__{name}" for name in STAGES]
    assert sorted(made.folder.iterdir()) == sorted(folders)
    assert any("-prev_stage_predictions" in note for note in made.notes)
    image = balls(0)[0].data[None]
    previous = None
    for stage, folder in zip(cascade.stages, folders, strict=True):
        found, ours = stock_labels(folder, image, previous), own_labels(stage, image, previous)
        assert len(np.unique(found)) > 1  # a model that finds one thing everywhere would prove nothing
        assert (ours != found).sum() <= 1  # softmax may make a tie of two logits that are not
        previous = found


def test_both_stages_come_back_as_one_package(tmp_path: Path) -> None:
    cascade = load_model(save_cascade(tmp_path / "cascade").folder)
    made = export_model(cascade, "nnunet", tmp_path / "out")
    back = import_checkpoint(made.folder / f"nnUNetTrainer__nnUNetPlans__{STAGES[1]}", tmp_path / "back")
    for stage, same in zip(cascade.stages, back.stages, strict=True):
        assert (same.plan, same.network, same.classes, same.channels, same.n_inputs) == (
            stage.plan, stage.network, stage.classes, stage.channels, stage.n_inputs)
        assert same.checksum == stage.checksum
