"""Each paper's quirks, worked out by hand; without the protocol they do not apply."""

import numpy as np
import pytest

from mambaseg._errors import UserError
from mambaseg.image import Grid, Image
from mambaseg.metrics import evaluate


def empty(*shape):
    return np.zeros(shape, np.uint8)


def test_isic_counts_all_pixels_as_one_picture():
    truths, predictions = [empty(4, 10), empty(4, 10)], [empty(4, 10), empty(4, 10)]
    truths[0][0], predictions[0][0, :5] = 1, 1  # 5 found, 5 missed
    truths[1][0, :2], predictions[1][:2] = 1, 1  # 2 found, 18 too many
    scores = evaluate(truths, predictions, protocol="isic")
    assert scores["pooled"] == pytest.approx({"miou": 7 / 30, "dsc": 14 / 37, "accuracy": 57 / 80,
                                              "sensitivity": 7 / 12, "specificity": 50 / 68})
    assert scores["mean"]["dice"] == pytest.approx((10 / 15 + 4 / 22) / 2)
    assert scores["protocol"] == "isic"
    assert "VM-UNet" in scores["conventions"]["pooled"]


def test_polyp_smooths_so_that_two_empty_masks_score_1():
    truth, half = empty(4, 5), empty(4, 5)
    half[0] = 1
    scores = evaluate([truth, half], [truth, empty(4, 5)], protocol="polyp")
    assert [case["dice"] for case in scores["cases"]] == pytest.approx([1, 0], abs=1e-5)
    assert scores["cases"][1]["mae"] == 0.25
    assert scores["pooled"]["sensitivity"] == 0


def test_synapse_rules_of_empty_organs():
    truth, prediction = empty(3, 8, 8), empty(3, 8, 8)
    truth[:, :4, :4], prediction[:, :4, 1:5] = 1, 1  # an organ moved by one voxel
    prediction[:, 6:, 6:] = 2  # an organ that is not there
    truth[:, 6:, :2] = 3  # an organ that was missed
    grid = Grid((3, 8, 8), (5.0, 2.0, 2.0), "mm")
    scores = evaluate([Image(truth, "ZYX", grid)], [Image(prediction, "ZYX", grid)], protocol="synapse")
    found = scores["cases"][0]["classes"]
    assert found["1"] == pytest.approx({"dice": 0.75, "hd95_voxels": 1.0})  # voxels, whatever the spacing
    assert found["2"] == {"dice": 1.0, "hd95_voxels": 0.0}
    assert found["3"] == found["8"] == {"dice": 0.0, "hd95_voxels": 0.0}
    assert scores["foreground_mean"]["dice"] == pytest.approx(1.75 / 8)
    plain = evaluate([truth], [prediction])
    assert plain["mean"]["classes"]["2"]["dice"] == 0


def test_umamba_loses_the_last_slice_of_tubes():
    truth, prediction = empty(8, 6, 6), empty(8, 6, 6)
    truth[2:5, 2:4, 2:4] = 5
    prediction[2:5, 2:4, 2:4] = 5
    prediction[4] = 0  # wrong only in the slice that does not count
    truth[:, :2, :2] = prediction[:, :2, :2] = 1
    truth[7, 5, 5] = 6  # a vein in a single slice
    scores = evaluate([truth], [prediction], "classes", protocol="umamba")
    found = scores["cases"][0]["classes"]
    assert found["5"] == {"dice": 1.0, "nsd": 1.0}
    assert found["6"] == {"dice": None, "nsd": None}
    assert found["13"] == {"dice": 1.0, "nsd": 1.0}  # in neither
    assert evaluate([truth], [prediction])["cases"][0]["classes"]["5"]["dice"] == pytest.approx(0.8)


def test_umamba_pictures_are_scored_by_their_own_labels():
    truth, prediction = empty(20, 20), empty(20, 20)
    truth[4:12, 4:12] = prediction[4:12, 4:12] = 3
    prediction[15:18, 15:18] = 5
    scores = evaluate([truth, truth], [prediction, truth], "classes", protocol="umamba")
    assert [case["dice"] for case in scores["cases"]] == [0.5, 1.0]
    assert scores["interval"]["dice"] == [0.5, 1.0]


def test_umamba_cells_leave_out_the_frame():
    truth = np.pad(np.kron(np.arange(1, 26).reshape(5, 5), np.ones((6, 6), int)), 2)
    missed = np.where(truth == 1, 0, truth)
    scores = evaluate([truth], [missed], protocol="umamba")
    assert scores["mean"]["f1@0.5"] == pytest.approx(48 / 49)
    shifted = truth[2:, 2:]  # the first row and column of objects now touch the frame
    assert evaluate([shifted], [missed[2:, 2:]], "instances", protocol="umamba")["mean"]["f1@0.5"] == 1


def test_mistakes_are_told():
    with pytest.raises(UserError, match="choose one of isic, polyp, synapse, umamba"):
        evaluate([empty(3, 3)], [empty(3, 3)], protocol="mine")
    with pytest.raises(UserError, match="label 14"):
        evaluate([empty(3, 3, 3) + 14], [empty(3, 3, 3)], "classes", protocol="umamba")
