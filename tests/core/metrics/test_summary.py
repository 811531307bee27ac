import json

import numpy as np
import pytest
import tifffile

from mambaseg._errors import DatasetError, UserError
from mambaseg.image import Grid, Image
from mambaseg.metrics import evaluate
from mambaseg.metrics.table import to_csv


def cells(n, shift=0):
    return np.roll(np.pad(np.kron(np.arange(1, n * n + 1).reshape(n, n), np.ones((6, 6), int)), 4), shift, axis=1)


def test_instances_by_hand():
    truth, prediction = cells(5), cells(5)
    prediction[prediction == 3] = 0
    scores = evaluate(truth, prediction)
    assert scores["kind"] == "instances"
    (case,) = scores["cases"]
    assert (case["tp@0.5"], case["fp@0.5"], case["fn@0.5"]) == (24, 0, 1)
    assert case["f1@0.5"] == scores["mean"]["f1@0.5"] == scores["pooled"]["f1@0.5"] == pytest.approx(48 / 49)
    assert case["mean_ap"] == pytest.approx(24 / 25)
    assert case["dice"] == pytest.approx(48 / 49)
    json.dumps(scores, allow_nan=False)


def test_mean_weighs_pictures_and_pooled_weighs_objects():
    truths = [np.eye(4, dtype=int) * np.arange(1, 5), np.eye(4, dtype=int)]
    predictions = [truths[0], np.zeros((4, 4), int)]
    scores = evaluate(truths, predictions, "instances")
    assert scores["mean"]["f1@0.5"] == 0.5
    assert scores["pooled"]["f1@0.5"] == pytest.approx(8 / 9)


def test_classes_follow_the_convention_that_is_named():
    truths = [np.array([[0, 1, 1, 2]]), np.array([[0, 0, 1, 1]])]
    predictions = [np.array([[0, 1, 0, 2]]), np.array([[0, 0, 1, 1]])]
    scores = evaluate(truths, predictions)
    assert scores["kind"] == "classes"
    assert scores["cases"][0]["classes"]["1"]["dice"] == pytest.approx(2 / 3)
    assert scores["cases"][1]["classes"]["2"]["dice"] is None
    assert scores["mean"]["classes"]["1"]["dice"] == pytest.approx(5 / 6)
    assert scores["mean"]["classes"]["2"]["dice"] == 1  # the picture without class 2 is left out
    assert scores["foreground_mean"]["dice"] == pytest.approx((5 / 6 + 1) / 2)
    assert "nnunet" in scores["conventions"]["dice"]
    pooled = evaluate(truths, predictions, convention="pooled")
    assert pooled["mean"]["classes"]["2"]["dice"] == 0.5
    assert "pooled" in pooled["conventions"]["dice"]


def test_ignored_voxels_do_not_count():
    truth, prediction = np.array([[0, 1, 1, 9]]), np.array([[0, 1, 1, 1]])
    assert evaluate(truth, prediction, ignore_label=9)["foreground_mean"]["dice"] == 1
    assert "9" not in evaluate(truth, prediction, ignore_label=9)["mean"]["classes"]


def test_distances_are_physical_and_have_their_unit():
    truth, prediction = np.zeros((2, 20, 20), np.uint8)
    truth[4:14, 4:14], prediction[4:14, 6:16] = 1, 1
    grid = Grid((20, 20), (1.0, 0.5), "mm")
    scores = evaluate(Image(truth, "YX", grid), Image(prediction, "YX", grid), distances=True, tolerance=0.9)
    found = scores["cases"][0]["classes"]["1"]
    assert found["hd95"] == pytest.approx(1.0)
    assert 0 < found["nsd@0.9"] < 1
    assert scores["cases"][0]["unit"] == "mm"
    assert "hd95" in scores["conventions"]


def test_folders_are_matched_by_name(tmp_path):
    for folder in ("truth", "prediction"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(("a", "b.2")):
        tifffile.imwrite(tmp_path / "truth" / f"{name}.tif", cells(5, number).astype(np.uint16))
        tifffile.imwrite(tmp_path / "prediction" / f"{name}_labels.tif", cells(5, number).astype(np.uint16))
    (tmp_path / "prediction" / "a_record.json").write_text("{}")
    scores = evaluate(tmp_path / "truth", str(tmp_path / "prediction"))
    assert [case["case"] for case in scores["cases"]] == ["a", "b.2"]
    assert scores["mean"]["f1@0.5"] == 1
    (tmp_path / "prediction" / "a_labels.tif").unlink()
    with pytest.raises(DatasetError, match=r"1 of the 2 label files .* have no prediction .*a"):
        evaluate(tmp_path / "truth", tmp_path / "prediction")


def test_what_cannot_be_told_is_asked():
    truth = np.arange(12).reshape(3, 4)
    with pytest.raises(UserError, match="11 different numbers"):
        evaluate(truth, truth)
    assert evaluate(truth, truth, "classes")["kind"] == "classes"
    with pytest.raises(UserError, match="guess"):
        evaluate(truth, truth, "guess")


def test_mistakes_are_named(tmp_path):
    with pytest.raises(DatasetError, match="2 true label images and 1 predicted"):
        evaluate([cells(2), cells(2)], [cells(2)])
    with pytest.raises(UserError, match="labels of 0 have shape"):
        evaluate(cells(2), cells(3))
    with pytest.raises(UserError, match="float64"):
        evaluate(np.ones((3, 3)), np.ones((3, 3)))
    with pytest.raises(DatasetError, match="no label files"):
        evaluate(tmp_path, tmp_path)


def test_rates_and_the_error_of_masks():
    truth, prediction = np.array([[0, 1, 1, 0, 0, 0, 0, 0]]), np.array([[0, 1, 0, 1, 0, 0, 0, 0]])
    found = evaluate(truth, prediction)["cases"][0]["classes"]["1"]
    assert [found[key] for key in ("sensitivity", "specificity", "accuracy", "mae")] == [1 / 2, 5 / 6, 3 / 4, 1 / 4]
    nothing = evaluate([truth, 0 * truth], [prediction, 0 * truth])["cases"][1]["classes"]["1"]
    assert (nothing["dice"], nothing["sensitivity"], nothing["specificity"]) == (None, None, 1)


def test_intervals_stand_beside_means():
    rng = np.random.default_rng(0)
    truths = [np.repeat([[0, 1, 2]], 20, axis=1).reshape(6, 10) for _ in range(12)]
    predictions = [np.where(rng.random(t.shape) < rng.uniform(0, 0.5), 0, t) for t in truths]
    scores = evaluate(truths, predictions, distances=True)
    for name in ("dice", "sensitivity", "hd95", "assd", "nsd@1"):
        low, high = scores["interval"]["classes"]["1"][name]
        assert low <= scores["mean"]["classes"]["1"][name] <= high
        low, high = scores["foreground_interval"][name]
        assert low <= scores["foreground_mean"][name] <= high
    assert "tp" not in scores["foreground_interval"]
    instances = evaluate(truths, predictions, "instances")
    low, high = instances["pooled_interval"]["f1@0.5"]
    assert low <= instances["pooled"]["f1@0.5"] <= high
    json.dumps([scores, instances], allow_nan=False)


def test_regions_may_overlap():
    truth, prediction = np.array([[0, 1, 2, 2]]), np.array([[0, 2, 2, 1]])
    found = evaluate(truth, prediction, regions={"whole": (1, 2), "core": (2,)})["mean"]["classes"]
    assert found["whole"]["dice"] == 1
    assert found["core"]["dice"] == 0.5


def test_what_is_ignored_makes_no_distance():
    truth, prediction = np.zeros((2, 9, 9), np.uint8)
    truth[2:4, 2:4] = prediction[2:4, 2:4] = 1
    prediction[7, 7] = 1
    truth[6:, 6:] = 9
    found = evaluate(truth, prediction, ignore_label=9, distances=True)["mean"]["classes"]["1"]
    assert found["hd95"] == 0


def test_the_table_has_a_line_for_each_class_of_each_picture():
    truths = [np.array([[0, 1, 1, 2]]), np.array([[0, 0, 1, 1]])]
    lines = to_csv(evaluate(truths, truths)).splitlines()
    assert lines[0].startswith("case,class,dice,iou,sensitivity")
    assert len(lines) == 5
    assert lines[4].startswith("1,2,,,,")  # class 2 is not in the second picture
    assert len(to_csv(evaluate(cells(5), cells(5))).splitlines()) == 2


def test_progress_is_told_picture_by_picture():
    seen = []
    evaluate([cells(5)] * 3, [cells(5)] * 3, progress=seen.append)
    assert [(update.done, update.total) for update in seen] == [(1, 3), (2, 3), (3, 3)]
