import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambaseg._errors import UserError
from mambaseg.metrics.distance import Surface, assd, hd95, nsd, umamba_nsd


def test_distances_of_three_libraries(root):
    assert check(root / "tests/data/metrics") == 9


def test_all_distances_of_three_libraries(shared):
    assert check(shared / "nnunet/metrics") == 26


def check(folder):
    """Compare all cases that have distances; how many there were."""
    masks = np.load(folder / "masks.npz")
    cases = [case for case in json.loads((folder / "metrics.json").read_text()) if "deepmind_HD95" in case]
    for case in cases:
        pair = masks[f"{case['name']}__ref"], masks[f"{case['name']}__pred"]
        for surface in Surface:
            expected = case[f"{surface}_HD95"]
            assert hd95(*pair, case["spacing"], surface) == close(expected), (case["name"], surface)
            for tolerance, value in case.get(f"{surface}_NSD", {}).items():
                assert nsd(*pair, float(tolerance), case["spacing"], surface) == close(value), (case["name"], surface)
        for tolerance, value in case["umamba_eval_NSD"].items():
            assert umamba_nsd(*pair, float(tolerance), case["spacing"]) == close(value), case["name"]
    return len(cases)


def close(value):
    return pytest.approx(math.nan if value is None else value, abs=1e-6, nan_ok=True)


def test_parallel_faces_by_hand():
    truth, prediction = np.zeros((8, 30, 30), bool), np.zeros((8, 30, 30), bool)
    truth[2:4], prediction[2:6] = True, True
    # the upper faces lie two slices of 1.5 apart, the lower ones coincide
    for surface in Surface:
        assert hd95(truth, prediction, (1.5, 1, 1), surface) == pytest.approx(3.0)
    assert 0.4 < nsd(truth, prediction, 1.0, (1.5, 1, 1)) < 0.7
    assert nsd(truth, prediction, 3.0, (1.5, 1, 1)) == 1


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([(7, 9), (4, 6, 5)]), st.sampled_from(list(Surface)))
def test_order_orientation_and_place_do_not_matter(seed, shape, surface):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, *shape)) < 0.4
    spacing = tuple(rng.uniform(0.5, 2, len(shape)))
    scores = [hd95(truth, prediction, spacing, surface), nsd(truth, prediction, 1.0, spacing, surface)]
    for one, other, scale in ((prediction, truth, spacing), (truth.T, prediction.T, spacing[::-1]),
                              (np.flip(truth), np.flip(prediction), spacing),
                              (np.pad(truth, 3), np.pad(prediction, 3), spacing)):
        again = [hd95(one, other, scale, surface), nsd(one, other, 1.0, scale, surface)]
        assert again == pytest.approx(scores, abs=1e-5, nan_ok=True)
    assert nsd(truth, truth, 0.0, spacing, surface) == (1 if truth.any() else pytest.approx(math.nan, nan_ok=True))


def test_shapes_must_agree():
    with pytest.raises(UserError, match=r"\(4, 4\).*\(4, 5\)"):
        hd95(np.ones((4, 4)), np.ones((4, 5)))


@pytest.mark.filterwarnings("ignore:monai.metrics.utils:FutureWarning")  # monai warns of its own call
@pytest.mark.parametrize("shape", [(9, 11), (6, 8, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_mean_distance_is_that_of_monai(seed, shape):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, *shape)) < 0.3
    spacing = tuple(rng.uniform(0.5, 2, len(shape)))
    expected = monai.compute_average_surface_distance(
        *(torch.from_numpy(mask)[None, None] for mask in (prediction, truth)), include_background=True,
        symmetric=True, spacing=spacing)
    assert assd(truth, prediction, spacing, "monai") == pytest.approx(float(expected), rel=1e-5)


def test_mean_distance_by_hand():
    truth, prediction = np.zeros((8, 30), bool), np.zeros((8, 30), bool)
    truth[2, 4], prediction[5, 4] = True, True  # one voxel each, three rows of 1.5 apart
    for surface in Surface:
        assert assd(truth, prediction, (1.5, 1), surface) == pytest.approx(4.5, rel=0.2)
        assert math.isnan(assd(truth, 0 * prediction, (1.5, 1), surface))
    assert assd(truth, prediction, (1.5, 1), "medpy") == 4.5
    prediction[5, 5] = True  # there and back the means differ: 4.5, and half of 4.5 and the diagonal
    back = (4.5 + math.hypot(4.5, 1)) / 2
    assert assd(truth, prediction, (1.5, 1), "medpy") == pytest.approx((4.5 + back) / 2)
    assert assd(truth, prediction, (1.5, 1), "monai") == pytest.approx((4.5 + 2 * back) / 3)
