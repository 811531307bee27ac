import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from mambaseg._errors import UserError
from mambaseg.metrics import matching
from mambaseg.metrics.matching import (
    average_precision,
    cells_f1,
    f1,
    match_instances,
    overlaps,
    pooled,
    precision,
    recall,
    remove_frame,
)

label_pairs = st.tuples(st.integers(1, 6), st.integers(1, 7)).flatmap(
    lambda shape: st.tuples(*[arrays(np.int32, shape, elements=st.integers(0, 5))] * 2))
thresholds = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.6, 0.9, 1.0])


def dense_tp(truth, prediction, threshold):
    """The protocol as it is written down: one Hungarian assignment over the whole IoU matrix."""
    table = overlaps(truth, prediction)
    iou = np.zeros((len(table.truth_ids), len(table.prediction_ids)))
    iou[table.truth_index, table.prediction_index] = table.iou
    if not iou.size:
        return 0
    pairs = linear_sum_assignment(-(iou >= threshold).astype(float) - iou / (2 * min(iou.shape)))
    return int((iou[pairs] >= threshold).sum())


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize(("setting", "frame_px"), [("frame_removed", 2), ("all", 0)])
def test_cells_f1_of_the_authors(root, setting, frame_px, threshold):
    labels = np.load(root / "tests/data/metrics/cells_f1.npz")
    expected = json.loads((root / "tests/data/metrics/cells_f1.json").read_text())[setting][str(threshold)]
    found = cells_f1(labels["gt"], labels["pred"], threshold, frame_px=frame_px)
    assert (found.tp, found.fp, found.fn) == (expected["tp"], expected["fp"], expected["fn"])
    assert (found.n_truth, found.n_prediction) == (expected["n_gt"], expected["n_pred"])
    assert found.f1 == pytest.approx(expected["f1"], rel=1e-9)


def test_worked_out_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 3]])
    prediction = np.array([[5, 5, 5, 0, 0, 2, 9, 9]])
    found = match_instances(truth, prediction)
    # 5 covers 3/4 of 1; 2 is half of truth 2; 9 shares one of three pixels with truth 2 and one of two with truth 3
    assert found.pairs.tolist() == [[1, 5], [2, 2], [3, 9]]
    assert found.iou.tolist() == [0.75, 0.5, 0.5]
    assert found.f1 == 1
    stricter = match_instances(truth, prediction, 0.6)
    assert (stricter.tp, stricter.fp, stricter.fn) == (1, 2, 2)
    assert (stricter.precision, stricter.recall, stricter.f1) == pytest.approx((1 / 3,) * 3)
    assert stricter.average_precision == pytest.approx(1 / 5)
    scores = average_precision(truth, prediction)
    assert list(scores) == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert np.mean(list(scores.values())) == pytest.approx((1 + 5 * 1 / 5) / 10)


def test_number_of_pairs_comes_before_their_iou():
    truth = np.array([[1] * 10 + [2] * 4])
    prediction = np.array([[8] + [9] * 13])
    # 9 fits 1 best (9/14), but then 2 (4/13 with 9) and 8 (1/10 with 1) would go without a partner
    assert match_instances(truth, prediction, 0.1).pairs.tolist() == [[1, 8], [2, 9]]
    assert match_instances(truth, prediction, 0.2).pairs.tolist() == [[1, 9]]


@given(label_pairs, thresholds)
def test_the_sparse_assignment_equals_the_dense_one(pair, threshold):
    assert match_instances(*pair, threshold).tp == dense_tp(*pair, threshold)


@given(label_pairs, thresholds)
def test_numbers_and_orientation_do_not_matter(pair, threshold):
    truth, prediction = pair
    found = match_instances(truth, prediction, threshold)
    renumbered = np.array([0, 70_000, 3, 12, 9, 1])[truth]
    assert match_instances(renumbered, prediction, threshold).tp == found.tp
    assert match_instances(np.where(truth, -truth, 0), prediction, threshold).tp == found.tp
    assert match_instances(truth[::-1].T, prediction[::-1].T, threshold).tp == found.tp
    swapped = match_instances(prediction, truth, threshold)
    assert (swapped.tp, swapped.fp, swapped.fn) == (found.tp, found.fn, found.fp)


@given(label_pairs)
def test_a_perfect_prediction_scores_one(pair):
    truth, _ = pair
    expected = 1.0 if truth.any() else 0.0
    assert f1(truth, truth) == precision(truth, truth) == recall(truth, truth) == expected
    assert set(average_precision(truth, truth).values()) == {expected}


def test_nothing_found_and_nothing_there():
    nothing, something = np.zeros((4, 4), int), np.ones((4, 4), int)
    for truth, prediction in ((nothing, something), (something, nothing), (nothing, nothing)):
        found = match_instances(truth, prediction)
        assert (found.precision, found.recall, found.f1, found.average_precision) == (0, 0, 0, 0)
        assert found.fp == prediction.max()
        assert found.fn == truth.max()


def test_thousands_of_objects_and_large_numbers():
    truth = np.kron(np.arange(5000).reshape(50, 100) * 1_000_003, np.ones((6, 6), int))
    found = match_instances(truth, np.roll(truth, 1, axis=1), 0.5)
    assert found.n_truth == 4999
    assert found.tp == 4999
    assert found.iou.max() == pytest.approx(30 / 42)


def test_frame_cells_are_left_out_whole():
    labels = np.zeros((12, 12), int)
    labels[1:6, 4] = 4
    labels[2:5, 6:9] = 6
    labels[9:11, 2] = 8
    assert np.unique(remove_frame(labels)).tolist() == [0, 6]
    assert np.unique(remove_frame(labels, 1)).tolist() == [0, 4, 6, 8]
    assert not remove_frame(np.ones((4, 9), int)).any()


def test_large_pictures_are_scored_by_tiles(monkeypatch):
    monkeypatch.setattr(matching, "TILE_PX", 20)
    monkeypatch.setattr(matching, "TILED_FROM_PX", 30 * 30)
    labels = np.zeros((30, 30), int)
    labels[5:9, 5:9] = 1  # inside the first tile
    labels[18:23, 5:9] = 2  # across two tiles: on the frame of both
    labels[24:30, 24:30] = 3  # at the picture's end, but the padding keeps it off the tile's frame
    found = cells_f1(labels, labels)
    assert found.n_truth == 2
    assert found.pairs[:, 0].tolist() == [1, 3]
    assert cells_f1(labels, labels, frame_px=0).n_truth == 4  # object 2 counts in each tile
    assert match_instances(labels, labels, frame_px=2).pairs[:, 0].tolist() == [1, 2]


def test_pooled_sums_counts():
    one = match_instances(np.array([[1, 0, 2]]), np.array([[1, 0, 0]]))
    two = match_instances(np.array([[0, 0]]), np.array([[3, 3]]))
    both = pooled([one, two])
    assert (both.tp, both.fp, both.fn) == (1, 1, 1)
    with pytest.raises(ValueError, match="one threshold"):
        pooled([one, match_instances(np.array([[1]]), np.array([[1]]), 0.7)])


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"\(2, 3\).*\(3, 2\)"):
        match_instances(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(UserError, match="predicted labels are float64"):
        match_instances(np.zeros((2, 3), int), np.zeros((2, 3)))
    with pytest.raises(UserError, match="threshold is 0"):
        match_instances(np.zeros((2, 3), int), np.zeros((2, 3), int), 0)
