import json
import math

import numpy as np
import pytest

from mambaseg._errors import UserError
from mambaseg.metrics.overlap import (
    Convention,
    Counts,
    binary_scores,
    class_counts,
    confusion,
    dice,
    iou,
    truth_slices,
)


def test_counts_dice_and_iou_of_nnunet_and_umamba(root):
    check(root / "tests/data/metrics")


def test_all_counts_dice_and_iou_of_nnunet_and_umamba(shared):
    check(shared / "nnunet/metrics")


def check(folder):
    masks = np.load(folder / "masks.npz")
    for case in json.loads((folder / "metrics.json").read_text()):
        name = case["name"]
        truth, prediction = masks[f"{name}__ref"], masks[f"{name}__pred"]
        valid = masks[f"{name}__ignore"] == 0 if f"{name}__ignore" in masks else None
        counts = confusion(truth, prediction, valid)
        assert (counts.tp, counts.fp, counts.fn, counts.tn) == (case["TP"], case["FP"], case["FN"], case["TN"])
        expected = [math.nan if case[key] is None else case[key] for key in ("nnunet_Dice", "nnunet_IoU")]
        assert [dice(counts), iou(counts)] == pytest.approx(expected, rel=1e-12, nan_ok=True)
        assert dice(confusion(truth, prediction), "umamba") == pytest.approx(case["umamba_eval_Dice"], rel=1e-12)


@pytest.mark.parametrize(("convention", "both_empty", "truth_empty", "prediction_empty"), [
    (Convention.NNUNET, math.nan, 0, 0), (Convention.UMAMBA, 1, 0, 0), (Convention.POOLED, 0, 0, 0),
    (Convention.SYNAPSE, 0, 1, 0),
])
@pytest.mark.parametrize("score", [dice, iou])
def test_conventions_differ_only_in_empty_masks(score, convention, both_empty, truth_empty, prediction_empty):
    assert score(Counts(0, 0, 0, 9), convention) == pytest.approx(both_empty, nan_ok=True)
    assert score(Counts(0, 4, 0, 5), convention) == truth_empty
    assert score(Counts(0, 0, 4, 5), convention) == prediction_empty
    assert score(Counts(2, 1, 1, 5), convention) == (2 / 3 if score is dice else 1 / 2)


def test_counts_of_classes_leave_out_what_is_not_valid():
    truth = np.array([1, 1, 2, 2, 0, 255])
    prediction = np.array([1, 2, 2, 0, 0, 2])
    counts = class_counts(truth, prediction, [1, 2, 3], truth != 255)
    assert counts == {1: Counts(1, 0, 1, 3), 2: Counts(1, 1, 1, 2), 3: Counts(0, 0, 0, 5)}


def test_binary_scores_are_of_the_pooled_count():
    pooled = Counts(3, 1, 0, 0) + Counts(0, 0, 2, 4)
    assert binary_scores(pooled) == pytest.approx(
        {"miou": 0.5, "dsc": 2 / 3, "accuracy": 0.7, "sensitivity": 0.6, "specificity": 0.8})
    assert set(binary_scores(Counts(0, 0, 0, 0)).values()) == {0.0}


def test_tubular_organs_lose_their_last_slice():
    mask = np.zeros((3, 3, 8), bool)
    mask[1, 1, 2:6] = True
    assert truth_slices(mask, -1) == slice(2, 5)
    assert truth_slices(np.zeros((3, 3, 8), bool), -1) == slice(0, 0)


def test_shapes_must_agree():
    with pytest.raises(UserError, match=r"\(2,\).*\(3,\)"):
        confusion(np.zeros(2), np.zeros(3))
